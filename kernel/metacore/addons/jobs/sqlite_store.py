"""The table of jobs on SQLite, where one process does all the work: the same answers by plain statements."""

from __future__ import annotations

import datetime
import uuid
from collections import Counter
from collections.abc import Collection
from typing import Any, cast

from sqlalchemy import Table, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.addons.jobs.job import ClaimedJob
from metacore.db.database import Database
from metacore.installer.job_rows import FAILED, PENDING, RUNNING, SUBSCRIPTION, WAITING
from metacore.orm.tables import Job

JOBS = cast(Table, Job.__table__)
FIELDS = tuple(ClaimedJob.__dataclass_fields__)


class SqliteJobs:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, worker: str, batch: int, share: int, lease: float) -> list[ClaimedJob]:
        async with self._db.transaction(None) as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            now = datetime.datetime.now(datetime.UTC)
            await self._ripen(connection, now)
            running = await connection.execute(
                select(JOBS.c.addon_key, JOBS.c.organization_id).where(JOBS.c.status == RUNNING)
            )
            busy = Counter((row.addon_key, row.organization_id) for row in running)
            earlier = JOBS.alias("earlier")
            blocked = select(earlier.c.id).where(
                earlier.c.organization_id == JOBS.c.organization_id,
                earlier.c.addon_key == JOBS.c.addon_key,
                earlier.c.lane == JOBS.c.lane,
                earlier.c.seq < JOBS.c.seq,
                earlier.c.status.in_([WAITING, PENDING, RUNNING]),
            )
            rows = await connection.execute(
                select(JOBS)
                .where(JOBS.c.status == PENDING, (JOBS.c.lane == "") | ~blocked.exists())
                .order_by(JOBS.c.run_at, JOBS.c.seq)
            )
            taken = _in_turn([dict(row) for row in rows.mappings()], busy, batch, share)
            until = now + datetime.timedelta(seconds=lease)
            for row in taken:
                row["attempts"] += 1
                await connection.execute(
                    update(JOBS)
                    .where(JOBS.c.id == row["id"])
                    .values(
                        status=RUNNING,
                        attempts=row["attempts"],
                        leased_by=worker,
                        leased_until=until,
                        started_at=now,
                        wanted=False,
                    )
                )
        return [ClaimedJob(**{name: row[name] for name in FIELDS}) for row in taken]

    async def renew(self, worker: str, jobs: Collection[uuid.UUID], lease: float) -> set[uuid.UUID]:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=lease)
        mine = (JOBS.c.status == RUNNING, JOBS.c.leased_by == worker, JOBS.c.id.in_(jobs))
        async with self._db.transaction(None) as connection:
            await connection.execute(update(JOBS).where(*mine).values(leased_until=until))
            return {row.id for row in await connection.execute(select(JOBS.c.id).where(*mine))}

    async def next_due(self) -> float | None:
        async with self._db.transaction(None) as connection:
            if (await connection.execute(select(JOBS.c.id).where(JOBS.c.status == PENDING).limit(1))).first():
                return 0.0
            waiting = await connection.scalar(select(func.min(JOBS.c.run_at)).where(JOBS.c.status == WAITING))
            leased = await connection.scalar(select(func.min(JOBS.c.leased_until)).where(JOBS.c.status == RUNNING))
        times: list[datetime.datetime] = [time for time in (waiting, leased) if time is not None]
        return (min(times) - datetime.datetime.now(datetime.UTC)).total_seconds() if times else None

    async def _ripen(self, connection: AsyncConnection, now: datetime.datetime) -> None:
        """What is due becomes pending; what a process held that is gone becomes pending again, or failed."""
        await connection.execute(
            update(JOBS).where(JOBS.c.status == WAITING, JOBS.c.run_at <= now).values(status=PENDING)
        )
        lost = (JOBS.c.status == RUNNING, JOBS.c.leased_until < now)
        given_up = (JOBS.c.every == "", JOBS.c.kind != SUBSCRIPTION, JOBS.c.attempts >= JOBS.c.max_attempts)
        told = {"leased_by": "", "leased_until": None, "last_error": "the kernel that ran it ended or hung"}
        await connection.execute(update(JOBS).where(*lost, *given_up).values(status=FAILED, finished_at=now, **told))
        await connection.execute(update(JOBS).where(*lost).values(status=PENDING, **told))


def _in_turn(
    rows: list[dict[str, Any]], busy: Counter[tuple[str, Any]], batch: int, share: int
) -> list[dict[str, Any]]:
    """Each addon has its turns, and within an addon each organization."""
    taken: list[dict[str, Any]] = []
    there = Counter(busy)
    addons: Counter[str] = Counter()
    for (key, _), count in busy.items():
        addons[key] += count
    while rows and len(taken) < batch:
        able = [row for row in rows if addons[row["addon_key"]] < share]
        if not able:
            break
        best = min(able, key=lambda row: (addons[row["addon_key"]], there[row["addon_key"], row["organization_id"]]))
        rows.remove(best)
        taken.append(best)
        addons[best["addon_key"]] += 1
        there[best["addon_key"], best["organization_id"]] += 1
    return taken
