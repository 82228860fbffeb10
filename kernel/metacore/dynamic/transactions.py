"""Several statements in one transaction, on PostgreSQL: the service's own, or one that somebody else began."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.db.faults import LOST, unreachable
from metacore.db.finishing import finished
from metacore.dynamic.connections import Connection
from metacore.dynamic.open_transactions import transactions_of
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.rows import Current
from metacore.dynamic.shape import ModelShape
from metacore.errors import Conflict, Unavailable
from metacore.events.canonical import Verb
from metacore.events.log import NewEvent, append
from metacore.identity import Principal

HOLD_SECONDS: Final = 10.0
"""How long a held row is waited for while somebody else holds it."""

DEADLOCKS: Final = 2
"""How often a transaction is repeated that the database ended because others waited for it while it waited for them."""

Result = TypeVar("Result")


@asynccontextmanager
async def one_transaction(
    db: Database, *, lock_seconds: float, owner: str = "", tenant: uuid.UUID | None = None
) -> AsyncIterator[Connection]:
    """A connection in a transaction that is committed when the block ends well. `owner` is the addon whose code runs
    within, or on whose behalf it is, `tenant` the organization that it is for when others of the addon should not wait
    for that; see `open_transactions` for how many there are at once.

    Raises:
        Unavailable: none was free in time, or the database cannot be reached.
        Refused: too many transactions within each other.
    """
    async with (
        transactions_of(db, HOLD_SECONDS).slot(db, owner, tenant) as slot,
        _connection(slot.pool, lock_seconds) as connection,
    ):
        with slot.around_what_runs():
            yield connection


async def repeated_after_deadlock(change: Callable[[], Awaitable[Result]]) -> Result:
    """What `change` gives, a transaction of its own that may run several times: of one that failed nothing is left."""
    for _ in range(DEADLOCKS):
        try:
            return await change()
        except Conflict as error:
            if not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                raise
    return await change()


@asynccontextmanager
async def _connection(pool: asyncpg.Pool[asyncpg.Record], lock_seconds: float) -> AsyncIterator[Connection]:
    try:
        connection = await pool.acquire()
    except LOST as error:
        raise unreachable() from error
    try:
        try:
            # Not by the driver's own object, which would not know of a rollback after a cancellation.
            wait = f"; SET LOCAL lock_timeout = {int(lock_seconds * 1000)}" if lock_seconds > 0 else ""
            await connection.execute(f"BEGIN{wait}")
            yield connection
        except BaseException:
            await _rolled_back(connection)
            raise
        try:
            ended = await finished(connection.execute("COMMIT"))
        except LOST as error:
            raise Unavailable(
                "the connection to the database broke; read the rows to see whether the changes were made",
                code="outcome_unknown",
            ) from error
        except asyncpg.PostgresError as error:
            raise Conflict("the changes could not be committed; try again", code="contention") from error
        if ended != "COMMIT":
            # PostgreSQL answers so when a statement broke the transaction and somebody went on all the same.
            raise Conflict("a change failed, so nothing was changed", code="rolled_back")
    finally:
        await pool.release(connection)


async def _rolled_back(connection: Connection) -> None:
    """End the transaction without its changes; a connection that cannot is closed, which does the same."""
    try:
        await finished(connection.execute("ROLLBACK"))
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()


@dataclass(slots=True)
class HeldRow:
    """A row that nobody else can change until the transaction ends. `row` is as it was when it was taken."""

    row: Mapping[str, Any]
    _current: Current
    _rows: PostgresRows
    _connection: AsyncConnection
    _shape: ModelShape
    _principal: Principal
    _id: uuid.UUID

    async def tell(self) -> bool:
        """Write the event of what became of the row in this transaction, if anything did; tells whether."""
        after = await self._rows.current(self._shape, self._principal, self._id)
        if after is not None and after.version == self._current.version:
            return False
        verb = Verb.DELETED if after is None else Verb.UPDATED
        data: dict[str, Any] = {"id": str(self._id), "before": _plain(self.row)}
        if after is not None:
            data["after"] = _plain(after.row)
        model = self._shape.model
        event = NewEvent(
            self._principal.organization_id, model.addon_key, self._shape.events[verb], data, self._principal.actor_id
        )
        await append(self._connection, event)
        return True


async def hold_row(
    db: Database, connection: AsyncConnection, shape: ModelShape, principal: Principal, row_id: uuid.UUID
) -> HeldRow | None:
    """Take the row in the transaction of `connection`, which has the organization set; None when it is not there.

    Raises:
        Conflict: somebody else holds it for too long.
    """
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection), "rows are held on PostgreSQL only"
    await driver.execute(f"SET LOCAL lock_timeout = {int(HOLD_SECONDS * 1000)}")
    rows = PostgresRows(db, within=driver)
    try:
        current = await rows.current(shape, principal, row_id)
    except Unavailable as error:
        if error.code != "database_busy":
            raise
        raise Conflict("the row is being changed by others; try again", code="contention") from error
    return None if current is None else HeldRow(current.row, current, rows, connection, shape, principal, row_id)


def _plain(row: Mapping[str, Any]) -> Any:
    """The row as JSON values that any encoder takes."""
    return orjson.loads(orjson.dumps(dict(row), default=float))
