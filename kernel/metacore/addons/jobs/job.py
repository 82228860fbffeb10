"""One job that a worker holds, and what is written when it lets go of it."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metacore.addons.invocation import Handler
from metacore.installer.job_rows import DONE, FAILED, PENDING, WAITING

MAX_ERROR = 2_000


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A row as it was when it was taken; `attempts` counts this try. See `metacore.orm.jobs`."""

    id: uuid.UUID
    organization_id: uuid.UUID
    addon_key: str
    digest: str
    kind: str
    name: str
    handler: Mapping[str, Any]
    payload: Mapping[str, Any]
    attempts: int
    max_attempts: int
    run_at: datetime.datetime
    every: str
    progress: int
    delivered: int

    def handled_by(self) -> Handler:
        given = self.handler
        return Handler(given.get("kind", "noop"), given.get("function", ""), given.get("url", ""))


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of a job's row. `after` are seconds until `run_at`; `changes` further columns. `outcome` is for
    metrics: done, retried, failed, skipped, released or yielded."""

    status: str
    outcome: str
    error: str | None = None
    after: float | None = None
    run_at: datetime.datetime | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status in (DONE, FAILED)


def done() -> Ending:
    return Ending(DONE, "done", error="")


def failed(error: str) -> Ending:
    """It stays in the table, to be seen and to be tried again by people."""
    return Ending(FAILED, "failed", error=error)


def again(error: str, after: float) -> Ending:
    return Ending(WAITING, "retried", error=error, after=after)


def released(attempts: int) -> Ending:
    """Back to the others at once; this try does not count."""
    return Ending(PENDING, "released", after=0.0, changes={"attempts": max(0, attempts - 1)})
