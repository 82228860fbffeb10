"""Letting an addon clean up before it goes: its uninstall handlers run in a kernel while its data is still there.

There is a limit: an addon whose handler fails or hangs must not be one that nobody can delete.
"""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import Collection

from sqlalchemy import func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.installer import handlers, runner
from metacore.installer.job_rows import DONE, FAILED
from metacore.logs import get_logger
from metacore.orm.tables import Heartbeat, Job

log = get_logger(__name__)

LIVE = datetime.timedelta(seconds=10)
"""A kernel whose last heartbeat is older is not alive (architecture 5)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5


async def say(owner: Database, key: str, organizations: Collection[uuid.UUID] | None, *, seconds: float) -> None:
    """Have the uninstall handlers run in `organizations` (None: wherever it is installed), and wait for them.

    Returns when each has ended, well or not, at the latest after `seconds`; at once where no kernel is alive.
    """

    async def once() -> list[uuid.UUID]:
        async with runner.locked(owner, key) as connection:
            places = organizations if organizations is not None else await handlers.places_of(connection, key)
            if not await _somebody_lives(connection):
                return []
            return await handlers.farewell(connection, key, places)

    waiting = await runner.patiently(once, step="uninstall handlers")
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + seconds, FIRST_PAUSE
    while waiting:
        waiting = await _unfinished(owner, waiting)
        left = deadline - loop.time()
        if not waiting or left <= 0:
            break
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)
    if waiting:
        log.warning("addon.farewell_cut_short", addon=key, handlers=len(waiting), seconds=seconds)


async def _unfinished(owner: Database, jobs: Collection[uuid.UUID]) -> list[uuid.UUID]:
    async with runner.transaction(owner, reading=True) as connection:
        rows = await connection.execute(select(Job.id).where(Job.id.in_(jobs), Job.status.not_in([DONE, FAILED])))
        return [row.id for row in rows]


async def _somebody_lives(connection: AsyncConnection) -> bool:
    moment = func.clock_timestamp() if connection.dialect.name == "postgresql" else func.current_timestamp()
    now = type_coerce(moment, Heartbeat.seen_at.type)
    seen, at = (await connection.execute(select(func.max(Heartbeat.seen_at), now))).one()
    return seen is not None and at - seen < LIVE
