"""Counted violations on their way into `metacore_violations`: in batches, by one task, beside every request."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.tally import ViolationCount
from metacore.db.database import Database
from metacore.logs import get_logger
from metacore.orm.capabilities import ViolationRow

log = get_logger(__name__)

INTERVAL_SECONDS: Final = 1.0
BATCH_ROWS: Final = 1000
WRITE_SECONDS: Final = 10.0
LONGEST_PAUSE: Final = 30.0
KEPT: Final = datetime.timedelta(days=30)
"""How long violations stay in the table."""

_RECORD = sa.text("SELECT metacore_record_violations(CAST(:counts AS jsonb))")


class ViolationWriter:
    """Writes what `recorder` counted, every `interval` seconds between `start` and `stop`.

    While the database is away, counts wait in the recorder's bounded tally; what finds no room there is counted as
    dropped. `stop` writes the rest, and gives up after ten seconds.
    """

    def __init__(self, database: Database, recorder: ViolationRecorder, *, interval: float = INTERVAL_SECONDS) -> None:
        self._database = database
        self._recorder = recorder
        self._interval = interval
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="metacore-violations")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not await self.flush():
            lost = sum(count.count for count in self._recorder.tally.drain())
            self._recorder.dropped(lost)
            log.warning("enforcer.violations_lost", count=lost)

    async def flush(self) -> bool:
        """Write what was counted until now. False when the database did not take it; it is kept for the next time."""
        waiting = self._recorder.tally.drain()
        written = 0
        try:
            while written < len(waiting):
                batch = waiting[written : written + BATCH_ROWS]
                async with asyncio.timeout(WRITE_SECONDS), self._database.transaction(None) as connection:
                    await write(connection, batch)
                written += len(batch)
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("enforcer.violations_not_written", error=f"{type(error).__name__}: {error}"[:300])
            return False
        finally:
            # Also when this task is cancelled in the middle: what was not committed is written by `stop`.
            self._recorder.dropped(self._recorder.tally.restore(waiting[written:]))
        if self._failures:
            log.info("enforcer.violations_written_again", failures=self._failures)
        self._failures = 0
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(min(LONGEST_PAUSE, self._interval * 2 ** min(self._failures, 8)))
            await self.flush()


async def write(connection: AsyncConnection, counts: Sequence[ViolationCount]) -> None:
    """Add `counts` to what the table holds of their hours, in the transaction of `connection`."""
    if connection.dialect.name == "postgresql":
        # asyncpg's own class of UUID, which ids that were read with it have, is none that orjson knows.
        document = orjson.dumps([_as_json(count) for count in counts], default=str).decode()
        await connection.execute(_RECORD, {"counts": document})
        return
    insert = sqlite.insert(ViolationRow)
    changed = {
        "count": ViolationRow.count + insert.excluded.count,
        "first_at": sa.func.min(ViolationRow.first_at, insert.excluded.first_at),
        "last_at": sa.func.max(ViolationRow.last_at, insert.excluded.last_at),
    }
    keys = [column.name for column in ViolationRow.__table__.primary_key]
    await connection.execute(
        insert.on_conflict_do_update(index_elements=keys, set_=changed), [_as_row(count) for count in counts]
    )


async def purge_violations(owner: Database, *, now: datetime.datetime, kept: datetime.timedelta = KEPT) -> int:
    """Delete violations of hours that are over for longer than `kept`, of every organization; says how many rows went.

    For the owner's database: the kernel's role may not delete them.
    """
    async with owner.transaction(None) as connection:
        gone = await connection.execute(sa.delete(ViolationRow).where(ViolationRow.hour < now - kept))
    return gone.rowcount


def _as_json(count: ViolationCount) -> dict[str, Any]:
    key = count.key
    return {
        "organization_id": key.organization_id,
        "hour": key.hour,
        "addon_key": key.addon_key,
        "kind": key.kind,
        "target": key.target,
        "caller": key.caller,
        "mode": key.mode,
        "forbidden": key.forbidden,
        "count": count.count,
        "first_at": count.first_at,
        "last_at": count.last_at,
    }


def _as_row(count: ViolationCount) -> dict[str, Any]:
    instants = {"hour": count.key.hour, "first_at": count.first_at, "last_at": count.last_at}
    return _as_json(count) | {
        name: datetime.datetime.fromtimestamp(seconds, datetime.UTC) for name, seconds in instants.items()
    }
