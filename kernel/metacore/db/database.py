"""One database as one role sees it: a SQLAlchemy engine for cold paths, an asyncpg pool for hot ones."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from metacore.db import pool as pools
from metacore.db.sockets import Watched
from metacore.errors import Misconfigured

DialectName = Literal["postgresql", "sqlite"]

ENGINE_SECONDS = 900.0
"""Longest that one statement of an engine may take. The longest that are meant, of the installer and of migrations, end
by the server's statement_timeout of 600 s; what is still open then waits for a server that does not answer."""

LEAST_POOL_SIZE = 2
"""Connections with which requests can be served: a transaction holds one while what runs within it reads by another."""

MOST_DEEPER = 3
"""Connections for transactions within transactions within transactions."""

SET_ORGANIZATION = text("SELECT set_config('app.current_org', :organization, true)")


class Database:
    """Connections of one role to one database: make it, `open` it, end it with `close`; `connect` does the first two.

    `postgres` is the pool of the hot paths. Every tenant-scoped access goes through `transaction(organization_id)` or
    `session(organization_id)`, or sets its scope inside the statement (docs/performance.md, row-level security in one
    trip). Nothing session-level is ever set on a pooled connection.
    """

    def __init__(
        self,
        url: str,
        *,
        direct_url: str = "",
        pool_size: int = 10,
        transaction_pooler: bool = False,
        application_name: str = "metacore",
    ) -> None:
        """Describe the database at `url`: `postgresql://…`, or `sqlite:///path` (`sqlite://` is in memory).

        `direct_url` reaches the same database without a pooler in between, for LISTEN and session locks.

        Raises:
            Misconfigured: an unknown kind of database, or a URL that cannot be read; never with the password.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise Misconfigured(
                "the database URL cannot be read: write postgresql://user:password@host/name"
            ) from error
        kind = parsed.get_backend_name()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._inner_pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._pool_size = pool_size
        self._transaction_pooler = transaction_pooler
        self._application_name = application_name
        self.shown_url = parsed.render_as_string(hide_password=True)
        self.dialect: DialectName
        if kind == "sqlite":
            self.dialect = "sqlite"
            self.url = self.direct_url = url
            self.engine = _sqlite_engine(url)
        elif kind == "postgresql":
            self.dialect = "postgresql"
            self.url = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
            self.direct_url = direct_url or self.url
            self.engine = _postgres_engine(parsed, pool_size, transaction_pooler, application_name)
        else:
            raise Misconfigured(f"database {kind!r} is not supported: use postgresql or sqlite")

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
        """A described and opened database; see `__init__` and `open` for what they refuse."""
        database = cls(
            url,
            direct_url=direct_url,
            pool_size=pool_size,
            transaction_pooler=transaction_pooler,
            application_name=application_name,
        )
        await database.open()
        return database

    async def open(self) -> None:
        """Open the pool of the hot paths. Opening an open database does nothing.

        Raises:
            Misconfigured: the server cannot be reached or refuses the login.
        """
        if self.dialect == "sqlite" or self._pool is not None:
            return
        try:
            self._pool = await pools.open_pool(
                self.url,
                size=self._pool_size,
                transaction_pooler=self._transaction_pooler,
                application_name=self._application_name,
            )
            self._inner_pool = await pools.open_pool(
                self.url,
                size=self.transactions + MOST_DEEPER,
                least=0,
                transaction_pooler=self._transaction_pooler,
                application_name=self._application_name,
            )
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            await self.engine.dispose()
            raise Misconfigured(
                f"cannot reach the database {self.shown_url}: {error or type(error).__name__}"
            ) from error

    @property
    def pool_size(self) -> int:
        """Connections that it was made for; the engine of the cold paths has half as many, and as many more in need."""
        return self._pool_size

    @property
    def transactions(self) -> int:
        """How many connections of `postgres` may be in transactions of several statements: the others stay free for
        single statements, which everybody needs."""
        return max(1, self._pool_size // 2)

    @property
    def inner_postgres(self) -> asyncpg.Pool[asyncpg.Record]:
        """A pool for transactions of code that runs within another one, which holds its own connection meanwhile: one
        for each of `transactions` and `MOST_DEEPER` more, opened when needed. Nobody else takes them."""
        assert self.postgres is not None
        if self._inner_pool is None:
            raise Misconfigured(f"the database {self.shown_url} is not open")
        return self._inner_pool

    @property
    def postgres(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool of the hot paths. Only for code that runs on PostgreSQL alone."""
        if self._pool is None:
            if self.dialect == "sqlite":
                raise Misconfigured("this needs PostgreSQL; the configured database is SQLite")
            raise Misconfigured(f"the database {self.shown_url} is not open")
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
        for pool in (self._pool, self._inner_pool):
            if pool is not None:
                await pools.close_pool(pool)
        self._pool = self._inner_pool = None
        await self.engine.dispose()


def _postgres_engine(parsed: URL, pool_size: int, transaction_pooler: bool, application_name: str) -> AsyncEngine:
    caches: dict[str, Any] = {}
    if transaction_pooler:
        # SQLAlchemy prepares every statement. Behind the pooler many clients share a server's names, so each is unique.
        caches = {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"metacore_{uuid.uuid4().hex}",
        }
    return create_async_engine(
        parsed.set(drivername="postgresql+asyncpg"),
        pool_size=max(2, pool_size // 2),
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={
            "server_settings": {"application_name": application_name},
            "command_timeout": ENGINE_SECONDS,
            "connection_class": Watched,
            **caches,
        },
    )


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
            # The file keeps its mode. When several open a new file at once, one changes it and the others may be told
            # "locked" without waiting: they get the mode from the file with their first transaction.
            with contextlib.suppress(sqlite3.OperationalError):
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    return engine
