"""What people see of jobs, and how they have a failed one tried again.

Within one organization; with None for it, and as the owner of the database, over all of them.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Table, func, select, update

from metacore.db.database import Database
from metacore.errors import Conflict, InvalidInput, NotFound
from metacore.installer import job_rows
from metacore.installer.job_rows import FAILED, PENDING
from metacore.orm.tables import Job

JOBS = cast(Table, Job.__table__)

STATUSES: Final = ("waiting", "pending", "running", "idle", "paused", "done", "failed")
KINDS: Final = ("lifecycle", "schedule", "subscription", "event", "webhook")
MAX_PER_PAGE: Final = 200
SHOWN: Final = (
    "id",
    "organization_id",
    "addon_key",
    "kind",
    "name",
    "status",
    "attempts",
    "max_attempts",
    "run_at",
    "every",
    "last_error",
    "created_at",
    "started_at",
    "finished_at",
)
"""Not the payload: it may hold what a reader of this list has no permission for."""


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[dict[str, Any]]
    total: int
    page: int
    per_page: int

    @property
    def last_page(self) -> int:
        return max(1, -(-self.total // self.per_page))


async def jobs_of(
    db: Database, organization_id: uuid.UUID | None, filters: Mapping[str, str], *, page: int = 1, per_page: int = 20
) -> Page:
    """The organization's jobs, newest first. `filters` are status, kind and addon; '' means all.

    Raises:
        InvalidInput: a status or kind that does not exist.
    """
    for name, known in (("status", STATUSES), ("kind", KINDS)):
        if filters.get(name) and filters[name] not in known:
            raise InvalidInput(f"{name} must be one of {', '.join(known)}, not {filters[name][:64]!r}")
    page, per_page = max(1, page), min(MAX_PER_PAGE, max(1, per_page))
    mine = _of(organization_id)
    for name, column in (("status", JOBS.c.status), ("kind", JOBS.c.kind), ("addon", JOBS.c.addon_key)):
        if filters.get(name):
            mine.append(column == filters[name])
    async with db.transaction(organization_id) as connection:
        total = int(await connection.scalar(select(func.count()).select_from(JOBS).where(*mine)) or 0)
        rows = await connection.execute(
            select(*(JOBS.c[name] for name in SHOWN))
            .where(*mine)
            .order_by(JOBS.c.seq.desc())
            .limit(per_page)
            .offset((page - 1) * per_page)
        )
        return Page([_plain(row) for row in rows.mappings()], total, page, per_page)


async def try_again(db: Database, organization_id: uuid.UUID | None, job_id: uuid.UUID) -> dict[str, Any]:
    """Have a failed job tried again at once, with all its tries before it. The job as it is then.

    Raises:
        NotFound: the organization has no such job.
        Conflict: it did not fail.
    """
    mine = (JOBS.c.id == job_id, *_of(organization_id))
    async with db.transaction(organization_id) as connection:
        changed = await connection.execute(
            update(JOBS)
            .where(*mine, JOBS.c.status == FAILED)
            .values(status=PENDING, attempts=0, run_at=datetime.datetime.now(datetime.UTC), finished_at=None)
        )
        row = (await connection.execute(select(*(JOBS.c[name] for name in SHOWN)).where(*mine))).mappings().first()
        if row is None:
            raise NotFound(f"there is no job {job_id}", code="unknown_job")
        if not changed.rowcount:
            raise Conflict(f"job {job_id} is {row['status']}; only a failed one can be tried again", code="not_failed")
        await job_rows.wake(connection)
    return _plain(row)


def _of(organization_id: uuid.UUID | None) -> list[ColumnElement[bool]]:
    return [JOBS.c.organization_id == organization_id] if organization_id is not None else []


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in SHOWN}
    for name, value in shown.items():
        if isinstance(value, uuid.UUID):
            shown[name] = str(value)
        elif isinstance(value, datetime.datetime):
            shown[name] = value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    return shown
