"""The table of jobs as a worker uses it: taking, keeping, letting go."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

import orjson
from sqlalchemy import Table, update

from metacore.addons.jobs.job import MAX_ERROR, ClaimedJob, Ending
from metacore.addons.jobs.sqlite_store import SqliteJobs
from metacore.db.database import Database
from metacore.installer.job_rows import PENDING, RUNNING, SUBSCRIPTION
from metacore.orm.tables import Job

JOBS = cast(Table, Job.__table__)


class Store(Protocol):
    async def claim(self, worker: str, batch: int, share: int, lease: float) -> list[ClaimedJob]:
        """Take up to `batch` jobs that are due for `lease` seconds. No addon gets more than `share` of this worker."""
        ...

    async def renew(self, worker: str, jobs: Collection[uuid.UUID], lease: float) -> set[uuid.UUID]:
        """Keep `jobs`, which this worker runs, for `lease` seconds more; those of them that it still holds."""
        ...

    async def next_due(self) -> float | None:
        """Seconds until there is something to take, or None when nothing waits for its time."""
        ...


class PostgresJobs:
    """Through the definer functions: jobs of all organizations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, worker: str, batch: int, share: int, lease: float) -> list[ClaimedJob]:
        rows = await self._db.postgres.fetch(
            "SELECT * FROM metacore_claim_jobs($1, $2, $3, $4)", worker, batch, share, lease
        )
        return [
            ClaimedJob(**{**row, "handler": orjson.loads(row["handler"]), "payload": orjson.loads(row["payload"])})
            for row in rows
        ]

    async def renew(self, worker: str, jobs: Collection[uuid.UUID], lease: float) -> set[uuid.UUID]:
        rows = await self._db.postgres.fetch("SELECT id FROM metacore_renew_jobs($1, $2, $3)", worker, jobs, lease)
        return {row["id"] for row in rows}

    async def next_due(self) -> float | None:
        seconds: float | None = await self._db.postgres.fetchval("SELECT metacore_next_job()")
        return seconds


def store_of(db: Database) -> Store:
    return PostgresJobs(db) if db.dialect == "postgresql" else SqliteJobs(db)


async def let_go(db: Database, worker: str, job: ClaimedJob, ending: Ending) -> bool:
    """Write how a try ended; false when the job is not this worker's any more and nothing was written."""
    now = datetime.datetime.now(datetime.UTC)
    values: dict[str, Any] = {"status": ending.status, "leased_by": "", "leased_until": None, **ending.changes}
    if ending.error is not None:
        values["last_error"] = ending.error[:MAX_ERROR]
    if ending.run_at is not None:
        values["run_at"] = ending.run_at
    elif ending.after is not None:
        values["run_at"] = now + datetime.timedelta(seconds=ending.after)
    if ending.finished:
        values["finished_at"] = now
    return await keep(db, worker, job, values)


async def keep(db: Database, worker: str, job: ClaimedJob, values: Mapping[str, Any]) -> bool:
    """Change the row of a job while holding it; false when this worker does not hold it any more."""
    held = (JOBS.c.id == job.id, JOBS.c.leased_by == worker, JOBS.c.status == RUNNING)
    async with db.transaction(job.organization_id) as connection:
        changed = await connection.execute(
            update(JOBS).where(*held, JOBS.c.organization_id == job.organization_id).values(dict(values))
        )
        if changed.rowcount and job.kind == SUBSCRIPTION and values.get("status") == "idle":
            # An event that came while it ran may lie behind what it has read.
            await connection.execute(
                update(JOBS).where(JOBS.c.id == job.id, JOBS.c.wanted.is_(True)).values(status=PENDING)
            )
        return bool(changed.rowcount)
