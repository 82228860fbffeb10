"""Becoming the guest and coming back: a transaction of its own to read in, or a savepoint in that of an action.

Everything is set for the transaction only, and nothing of it is left on the connection afterwards, however the
statement ended. A connection that cannot be brought back is closed.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from metacore.db.finishing import finished
from metacore.db.rls import quoted
from metacore.guest_sql.callers import Transaction
from metacore.guest_sql.judgement import Refused
from metacore.wasm.abi import HostCode

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


SAVEPOINT = "metacore_guest"
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

CHANGED = ("search_path", "statement_timeout", "timezone", "app.current_org")
"""Settings that a savepoint, once released, would leave behind in the action's transaction."""
READ_SETTINGS = "SELECT " + ", ".join(f"pg_catalog.current_setting('{name}', true)" for name in CHANGED)
BACK = f"RESET ROLE; RELEASE SAVEPOINT {SAVEPOINT}; " + "; ".join(f"RESET {name}" for name in CHANGED)
"""Ends the disguise of a change. No statement that sets anything passes the judge; should one ever do, for the session
and not for the transaction, then this takes it back: a connection goes to the next one as it is (`db.pool`)."""
RESTORE_SETTINGS = "SELECT pg_catalog.pg_current_xact_id()::text AS transaction, " + ", ".join(
    f"pg_catalog.set_config('{name}', ${number}, true)" for number, name in enumerate(CHANGED, 1)
)


@dataclass(frozen=True, slots=True)
class Disguise:
    """Who the statement runs as. `seconds` is how long it may take."""

    role: str
    schema: str
    organization_id: uuid.UUID
    seconds: float

    @property
    def statements(self) -> str:
        """`public` is searched for what extensions put there; the guest's role has rights on nothing else in it."""
        return (
            f"SET LOCAL statement_timeout = {max(1, int(self.seconds * 1000))}; "
            f"SET LOCAL search_path TO {quoted(self.schema)}, public, pg_temp; SET LOCAL timezone TO 'UTC'; "
            f"SET LOCAL app.current_org TO '{self.organization_id}'; SET LOCAL ROLE {quoted(self.role)}"
        )


@asynccontextmanager
async def reading(pool: asyncpg.Pool[asyncpg.Record], disguise: Disguise) -> AsyncIterator[Connection]:
    """A read-only transaction of its own.

    Raises:
        Refused: with `query_timeout`, when no connection was free in time.
    """
    try:
        connection = await pool.acquire(timeout=disguise.seconds)
    except TimeoutError:
        raise Refused(HostCode.QUERY_TIMEOUT, "no connection to the database was free in time") from None
    try:
        try:
            await connection.execute(f"BEGIN READ ONLY; {disguise.statements}")
            yield connection
        finally:
            try:
                await finished(connection.execute("ROLLBACK"))
            except LOST:
                connection.terminate()
    finally:
        await pool.release(connection)


@asynccontextmanager
async def reading_inside(transaction: Transaction, disguise: Disguise) -> AsyncIterator[Connection]:
    """The same inside an action's transaction, whose own changes it sees."""
    async with transaction.lock:
        connection = await _driver(transaction)
        try:
            await connection.execute(
                f"SAVEPOINT {SAVEPOINT}; SET LOCAL transaction_read_only = on; {disguise.statements}"
            )
            yield connection
        finally:
            await _taken_back(transaction, connection)


class Writing:
    """A change under way; `transaction` is the number of the transaction, once it is done."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transaction = ""


@asynccontextmanager
async def writing(transaction: Transaction, disguise: Disguise) -> AsyncIterator[Writing]:
    """A savepoint in an action's transaction: kept when the block ends well, else as if nothing had been."""
    async with transaction.lock:
        connection = await _driver(transaction)
        before = await connection.fetchrow(READ_SETTINGS)
        assert before is not None
        change = Writing(connection)
        try:
            await connection.execute(f"SAVEPOINT {SAVEPOINT}; {disguise.statements}")
            yield change
        except BaseException:
            await _taken_back(transaction, connection)
            raise
        change.transaction = await finished(_kept(transaction, connection, tuple(before)))


async def _kept(transaction: Transaction, connection: Connection, settings: tuple[str | None, ...]) -> str:
    try:
        await connection.execute(BACK)
        return str(await connection.fetchval(RESTORE_SETTINGS, *settings))
    except BaseException:
        transaction.failed = True
        raise


async def _taken_back(transaction: Transaction, connection: Connection) -> None:
    try:
        await finished(connection.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}"))
    except LOST:
        transaction.failed = True


async def _driver(transaction: Transaction) -> Connection:
    """The driver's connection of an action's transaction.

    Raises:
        Refused: the transaction is broken already.
    """
    if transaction.failed:
        raise Refused(HostCode.NO_ACTIVE_TX, "the action's transaction failed; nothing more can be done in it")
    if transaction.connection.closed:
        raise Refused(HostCode.NO_ACTIVE_TX, "the action's transaction is over")
    raw = await transaction.connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection)
    if not driver.is_in_transaction():
        raise Refused(HostCode.NO_ACTIVE_TX, "the action's transaction is over")
    return driver
