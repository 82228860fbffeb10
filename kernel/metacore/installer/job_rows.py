"""Rows of work for kernels, written by whoever holds the transaction in which the reason for the work is committed."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import delete, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.channels import JOBS
from metacore.db.database import Database
from metacore.ids import new_uuid
from metacore.orm.tables import Job

LIFECYCLE, SCHEDULE, SUBSCRIPTION = "lifecycle", "schedule", "subscription"
EVENT, WEBHOOK = "event", "webhook"
"""An event that a subscription could not be told, and an inbound request that was accepted: both come once."""
WAITING, PENDING, RUNNING, IDLE, PAUSED = "waiting", "pending", "running", "idle", "paused"
DONE, FAILED = "done", "failed"

MAX_ATTEMPTS: Final = 8
"""With the pauses between them (`addons.jobs.retry`) some ten minutes."""
ROWS_AT_ONCE: Final = 200
KEPT_DONE: Final = datetime.timedelta(days=7)
KEPT_FAILED: Final = datetime.timedelta(days=30)
NOTIFY: Final = text("SELECT pg_notify(:channel, '')")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job to write; see `metacore.orm.jobs`. `id` is the invocation's, the same in every try. `run_at` None means
    now."""

    organization_id: uuid.UUID
    addon_key: str
    kind: str
    name: str
    handler: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    dedup: str | None = None
    lane: str = ""
    run_at: datetime.datetime | None = None
    status: str = PENDING
    every: str = ""
    progress: int = 0
    attempts: int = 0
    max_attempts: int = MAX_ATTEMPTS
    last_error: str = ""
    id: uuid.UUID = field(default_factory=new_uuid)


async def enqueue(connection: AsyncConnection, works: Sequence[Work]) -> int:
    """Write the jobs that are not there yet (by `dedup`), in order, and wake a kernel when this transaction commits.

    Returns how many were written.
    """
    if not works:
        return 0
    now = datetime.datetime.now(datetime.UTC)
    on_postgres = connection.dialect.name == "postgresql"
    written = 0
    for first in range(0, len(works), ROWS_AT_ONCE):
        rows = [_row(work, now) for work in works[first : first + ROWS_AT_ONCE]]
        insert = (postgresql.insert if on_postgres else sqlite.insert)(Job).values(rows)
        done = await connection.execute(
            insert.on_conflict_do_nothing(index_elements=["organization_id", "addon_key", "dedup"])
        )
        written += done.rowcount
    await wake(connection)
    return written


def _row(work: Work, now: datetime.datetime) -> dict[str, Any]:
    return {
        "id": work.id,
        "organization_id": work.organization_id,
        "addon_key": work.addon_key,
        "digest": work.digest,
        "kind": work.kind,
        "name": work.name[:255],
        "handler": dict(work.handler),
        "payload": dict(work.payload),
        "status": work.status,
        "run_at": work.run_at or now,
        "every": work.every,
        "lane": work.lane,
        "dedup": work.dedup,
        "progress": work.progress,
        "attempts": work.attempts,
        "max_attempts": work.max_attempts,
        "last_error": work.last_error,
        "finished_at": now if work.status in (DONE, FAILED) else None,
    }


async def wake(connection: AsyncConnection) -> None:
    """Tell the kernels, when this transaction commits, that there is a job to run."""
    if connection.dialect.name == "postgresql":
        await connection.execute(NOTIFY, {"channel": JOBS})


async def purge_jobs(owner: Database, *, now: datetime.datetime) -> int:
    """Delete what was done, and later what failed, of every organization; says how many rows went."""
    async with owner.transaction(None) as connection:
        gone = await connection.execute(
            delete(Job).where(
                ((Job.status == DONE) & (Job.finished_at < now - KEPT_DONE))
                | ((Job.status == FAILED) & (Job.finished_at < now - KEPT_FAILED))
            )
        )
    return gone.rowcount


def handler_of(written: Any) -> dict[str, str]:
    """`{kind, function, url}` of a handler as manifests spell it: `wasm:tick`, or `{type, function|export, url}`."""
    if isinstance(written, Mapping):
        kind = str(written.get("type") or "noop")
        function = str(written.get("function") or written.get("export") or "")
        return {"kind": kind, "function": function.removeprefix("wasm:"), "url": str(written.get("url") or "")}
    kind, _, rest = str(written or "noop").partition(":")
    if kind == "webhook":
        return {"kind": kind, "function": "", "url": rest}
    return {"kind": kind, "function": rest, "url": ""}
