"""Runs the steps of a plan: each in one transaction that holds the addon's lock, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.db.sockets import Watched
from metacore.errors import InstallFailed, MetacoreError, Unavailable
from metacore.installer import journal, migration_role, seeds
from metacore.installer.failures import retryable, said, sqlstate
from metacore.installer.steps import Step, StepKind
from metacore.logs import get_logger
from metacore.orm.tables import AddonSchema

log = get_logger(__name__)

T = TypeVar("T")

TRIES = 6
FIRST_PAUSE = 0.1
LOCK_TIMEOUT = "3s"
"""A statement that waits for a table's lock makes every later query on that table wait behind it."""
ADVISORY_TIMEOUT = "10s"
STATEMENT_TIMEOUT = "600s"
INDEX_TIMEOUT = "3600s"
INDEX_LOCK_TIMEOUT = "60s"
"""A concurrent build waits for older transactions without holding anybody up."""


@asynccontextmanager
async def transaction(owner: Database, *, reading: bool = False) -> AsyncIterator[AsyncConnection]:
    """A transaction of the owner with the limits of DDL. On SQLite it holds the writer's lock from the start, unless
    it is only for `reading`."""
    async with owner.transaction(None) as connection:
        if owner.dialect == "postgresql":
            await connection.execute(
                text(
                    "SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true),"
                    " set_config('search_path', 'public, pg_temp', true), set_config('app.current_org', '', true)"
                ),
                {"lock": ADVISORY_TIMEOUT, "statement": STATEMENT_TIMEOUT},
            )
        elif not reading:
            # Python would begin only before the first change of rows: DDL before it could be left half done.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


@asynccontextmanager
async def locked(owner: Database, key: str) -> AsyncIterator[AsyncConnection]:
    """`transaction`, alone with this addon."""
    async with transaction(owner) as connection:
        await journal.lock(connection, key)
        if owner.dialect == "postgresql":
            await connection.execute(text("SELECT set_config('lock_timeout', :lock, true)"), {"lock": LOCK_TIMEOUT})
        yield connection


async def patiently(work: Callable[[], Awaitable[T]], *, step: str) -> T:
    """Run `work` again while a lock, a deadlock or a busy database stands in its way.

    Raises:
        Unavailable: it still does after `TRIES` times.
        InstallFailed: the database refused for another reason.
    """
    pause = FIRST_PAUSE
    for attempt in range(1, TRIES + 1):
        try:
            return await work()
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not retryable(error):
                raise InstallFailed(f"{step}: {said(error)}", step=step) from error
            if attempt == TRIES:
                raise Unavailable(f"{step}: {said(error)}: somebody holds it, try again") from error
            log.info("installer.retry", step=step, sqlstate=sqlstate(error), attempt=attempt)
        except Unavailable as error:
            if attempt == TRIES:
                raise
            log.info("installer.retry", step=step, reason=error.message, attempt=attempt)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries, no secret.
        pause *= 2
    raise AssertionError("unreachable")


class Runner:
    """One attempt. `guests` brings the roles of guests up to date in a transaction. `point` is called with a word where
    a test may want to interfere, and does nothing else."""

    def __init__(
        self,
        owner: Database,
        key: str,
        attempt: int,
        digest: str,
        *,
        role: str,
        guests: Callable[[AsyncConnection], Awaitable[None]],
        point: Callable[[str], None],
        progress: Callable[[str], None],
    ) -> None:
        self._owner = owner
        self._key = key
        self._attempt = attempt
        self._digest = digest
        self._role = role
        self._guests = guests
        self._point = point
        self._progress = progress
        self._position = 0
        self._password = ""

    async def run(self, step: Step) -> None:
        """Do one step and write it into the journal.

        Raises:
            InstallFailed, Unavailable, Conflict: it was not done, and left nothing behind.
        """
        if step.kind is StepKind.MIGRATION:
            await self._do(step.name, lambda position: self._migrate(step, position))
        elif not step.transactional:
            await self._do(step.name, lambda position: self._alone(step, position))
        else:
            await self.transact(step.name, lambda connection: self._statements(connection, step))

    async def transact(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do `work` in one transaction, together with its line in the journal."""

        async def once(position: int) -> T:
            async with locked(self._owner, self._key) as connection:
                await journal.check_attempt(connection, self._key, self._attempt)
                result = await work(connection)
                await self._write(connection, position, name, journal.DONE)
                self._point(f"inside {name}")
            return result

        return await self._do(name, once)

    async def close_login(self) -> None:
        """Take the addon's role its login away: its migrations are done."""
        if not self._password:
            return
        async with locked(self._owner, self._key) as connection:
            await journal.check_attempt(connection, self._key, self._attempt)
            await migration_role.close_login(connection, self._role)
        self._password = ""

    async def close(self) -> None:
        """The same at the end of an attempt that failed, as far as possible."""
        try:
            await self.close_login()
        except (DBAPIError, MetacoreError) as error:
            # Nobody knows the password any more, and the next attempt begins by closing the login.
            log.info("installer.login_left_open", role=self._role, reason=said(error))

    async def _do(self, name: str, once: Callable[[int], Awaitable[T]]) -> T:
        self._position += 1
        position = self._position
        self._progress(name)
        self._point(f"before {name}")
        try:
            result = await patiently(lambda: once(position), step=name)
        except MetacoreError as error:
            await self._failed(position, name, error)
            raise
        self._point(f"after {name}")
        return result

    async def _statements(self, connection: AsyncConnection, step: Step) -> None:
        if step.kind is StepKind.GUESTS:
            # Not what was planned, but what is needed now: other addons' installations change these rights, too.
            await self._guests(connection)
            return
        for statement in step.statements:
            await connection.exec_driver_sql(statement)
        if step.kind is StepKind.SCHEMA:
            await connection.execute(
                insert(AddonSchema).values(name=step.schema, addon_key=self._key, organization_id=step.organization_id)
            )
        if step.seed is not None:
            await seeds.sow(connection, step.schema, step.seed)

    async def _alone(self, step: Step, position: int) -> None:
        """Statements that cannot run in a transaction. A kill leaves an invalid index, which the next plan drops."""
        await self._begin(step.name, position)
        connection = await asyncpg.connect(
            self._owner.direct_url,
            statement_cache_size=0,
            server_settings={
                "application_name": "metacore-installer",
                "lock_timeout": INDEX_LOCK_TIMEOUT,
                "statement_timeout": INDEX_TIMEOUT,
            },
            connection_class=Watched,
        )
        try:
            self._point(f"inside {step.name}")
            # A broken index of an earlier try would make IF NOT EXISTS skip the good one.
            await self._drop_broken(connection, step)
            try:
                for statement in step.statements:
                    await connection.execute(statement)
            except asyncpg.PostgresError:
                with contextlib.suppress(asyncpg.PostgresError):
                    await self._drop_broken(connection, step)
                raise
        finally:
            await connection.close(timeout=10)
        await self._finish(step.name, position)

    async def _drop_broken(self, connection: asyncpg.Connection[asyncpg.Record], step: Step) -> None:
        """What a failed CREATE INDEX CONCURRENTLY leaves is of no use and slows every write down."""
        for row in await connection.fetch(BROKEN_INDEXES, step.schema, step.table):
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row['name']}")

    async def _migrate(self, step: Step, position: int) -> None:
        assert step.migration is not None
        await self._begin(step.name, position)
        if not self._password:
            async with locked(self._owner, self._key) as connection:
                await journal.check_attempt(connection, self._key, self._attempt)
                self._password = await migration_role.open_login(connection, self._role, self._key, self._attempt)
        await migration_role.run_migration(
            self._owner.direct_url,
            role=self._role,
            password=self._password,
            schema=step.schema,
            migration=step.migration,
            key=self._key,
            attempt=self._attempt,
            step=step.name,
            inside=lambda: self._point(f"inside {step.name}"),
        )
        self._point(f"committed {step.name}")
        async with locked(self._owner, self._key) as connection:
            await journal.check_attempt(connection, self._key, self._attempt)
            await migration_role.copy_marks(connection, self._key)
            await self._write(connection, position, step.name, journal.DONE)

    async def _begin(self, name: str, position: int) -> None:
        async with locked(self._owner, self._key) as connection:
            await journal.check_attempt(connection, self._key, self._attempt)
            await self._write(connection, position, name, journal.RUNNING)

    async def _finish(self, name: str, position: int) -> None:
        async with locked(self._owner, self._key) as connection:
            await journal.check_attempt(connection, self._key, self._attempt)
            await self._write(connection, position, name, journal.DONE)

    async def _failed(self, position: int, name: str, error: MetacoreError) -> None:
        if error.code == "superseded":
            return
        try:
            async with transaction(self._owner) as connection:
                await self._write(connection, position, name, journal.FAILED, error.message)
        except DBAPIError as problem:
            log.warning("installer.journal_lost", step=name, reason=said(problem))

    async def _write(
        self, connection: AsyncConnection, position: int, name: str, status: str, detail: str = ""
    ) -> None:
        await journal.write(connection, self._key, self._attempt, position, name, self._digest, status, detail)


BROKEN_INDEXES = """
SELECT pg_catalog.format('%I.%I', n.nspname, x.relname) AS name
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND NOT i.indisvalid AND x.relname LIKE 'mx\\_%'
"""
