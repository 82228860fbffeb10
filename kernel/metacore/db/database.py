"""One database as one role sees it: a SQLAlchemy engine for cold paths, an asyncpg pool for hot ones."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from metacore.db import pool as pools
from metacore.errors import Misconfigured

DialectName = Literal["postgresql", "sqlite"]

SET_ORGANIZATION = text("SELECT set_config('app.current_org', :organization, true)")


class Database:
    """Connections of one role to one database. Make it with `Database.connect`, end it with `close`.

    `pool` serves the hot paths on PostgreSQL and is None on SQLite. Every tenant-scoped access goes through
    `transaction(organization_id)` or `session(organization_id)`, or sets its scope inside the statement
    (docs/performance.md, row-level security in one trip). Nothing session-level is ever set on a pooled connection.
    """

    def __init__(
        self,
        url: str,
        dialect: DialectName,
        engine: AsyncEngine,
        pool: asyncpg.Pool[asyncpg.Record] | None,
        direct_url: str,
    ) -> None:
        self.url = url
        self.direct_url = direct_url
        self.dialect: DialectName = dialect
        self.engine = engine
        self._pool = pool

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        direct_url: str = "",
        pool_size: int = 10,
        transaction_pooler: bool = False,
        application_name: str = "metacore",
    ) -> Database:
        """Open `url`: `postgresql://…`, or `sqlite:///path` (`sqlite://` is in memory).

        Raises:
            Misconfigured: an unknown kind of database, or one that cannot be reached; never with the password.
        """
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind == "sqlite":
            return cls(url, "sqlite", _sqlite_engine(url), None, url)
        if kind != "postgresql":
            raise Misconfigured(f"database {kind!r} is not supported: use postgresql or sqlite")
        plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        engine = create_async_engine(
            parsed.set(drivername="postgresql+asyncpg"),
            pool_size=max(2, pool_size // 2),
            max_overflow=pool_size,
            pool_pre_ping=True,
            connect_args={
                "server_settings": {"application_name": application_name},
                **({"statement_cache_size": 0, "prepared_statement_cache_size": 0} if transaction_pooler else {}),
            },
        )
        try:
            pool = await pools.open_pool(
                plain,
                size=pool_size,
                transaction_pooler=transaction_pooler,
                application_name=application_name,
            )
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            await engine.dispose()
            place = parsed.render_as_string(hide_password=True)
            raise Misconfigured(f"cannot reach the database {place}: {error or type(error).__name__}") from error
        return cls(plain, "postgresql", engine, pool, direct_url or plain)

    @property
    def postgres(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool of the hot paths. Only for code that runs on PostgreSQL alone."""
        if self._pool is None:
            raise Misconfigured("this needs PostgreSQL; the configured database is SQLite")
        return self._pool

    @asynccontextmanager
    async def transaction(self, organization_id: uuid.UUID | None) -> AsyncIterator[AsyncConnection]:
        """One transaction that sees the rows of `organization_id`, or with None no tenant rows at all (PostgreSQL)."""
        async with self.engine.begin() as connection:
            if organization_id is not None and self.dialect == "postgresql":
                await connection.execute(SET_ORGANIZATION, {"organization": str(organization_id)})
            yield connection

    @asynccontextmanager
    async def session(self, organization_id: uuid.UUID | None) -> AsyncIterator[AsyncSession]:
        """`transaction`, with an ORM session on top; it commits when the block ends well."""
        async with self.transaction(organization_id) as connection:
            session = AsyncSession(bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only")
            try:
                yield session
                await session.flush()
            finally:
                await session.close()

    async def close(self) -> None:
        if self._pool is not None:
            await pools.close_pool(self._pool)
        await self.engine.dispose()


def _sqlite_engine(url: str) -> AsyncEngine:
    parsed = make_url(url).set(drivername="sqlite+aiosqlite")
    in_memory = parsed.database in (None, "", ":memory:")
    engine = create_async_engine(parsed, poolclass=StaticPool) if in_memory else create_async_engine(parsed)

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA busy_timeout = 10000")
        if not in_memory:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    return engine
