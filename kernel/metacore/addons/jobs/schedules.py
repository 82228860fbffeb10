"""Schedules: one row per organization that comes again and again, so runs can neither overlap nor double.

A slot that was missed, because nobody ran or the run before took long, is caught up once; the next one is counted from
now.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from metacore.addons.jobs import job as endings
from metacore.addons.jobs import retry
from metacore.addons.jobs.job import ClaimedJob, Ending
from metacore.addons.jobs.runs import Failure, Runs, crowded
from metacore.errors import InvalidInput, MetacoreError
from metacore.installer.handlers import place_of
from metacore.installer.job_rows import FAILED, WAITING
from metacore.manifest.timing import next_run


class Schedules:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def __call__(self, job: ClaimedJob) -> Ending:
        if job.attempts > job.max_attempts:
            return self._next(job, "failed", "it ended the kernel each time it was tried")
        try:
            await self._runs.ready(job)
        except MetacoreError as error:
            return self._next(job, "skipped", f"{error.code}: {error.message}")
        slot = datetime.datetime.fromtimestamp(job.progress, datetime.UTC)
        payload = {"schedule": job.name, "slot": slot.isoformat().replace("+00:00", "Z")}
        failure = await self._runs.run(
            job, payload, id=uuid.uuid5(job.id, str(job.progress)), caller=f"schedule:{job.name}"
        )
        if failure is None:
            return self._next(job, "done", "")
        if failure.crowded:
            return crowded(job, failure)
        return self._after(job, failure)

    def _after(self, job: ClaimedJob, failure: Failure) -> Ending:
        """The same slot once more, unless the next one comes before that."""
        pause = retry.pause(job.attempts)
        following = self._next(job, "failed", failure.message)
        again_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=pause)
        if job.attempts >= job.max_attempts or (following.run_at is not None and following.run_at <= again_at):
            return following
        return endings.again(failure.message, pause)

    def _next(self, job: ClaimedJob, outcome: str, error: str) -> Ending:
        place = place_of(job.addon_key, job.organization_id, job.name)
        try:
            slot, begin = next_run(job.every, place, datetime.datetime.now(datetime.UTC))
        except InvalidInput as problem:
            return Ending(FAILED, "failed", error=problem.message)
        changes: dict[str, Any] = {"progress": int(slot.timestamp()), "attempts": 0}
        return Ending(WAITING, outcome, error=error, run_at=begin, changes=changes)
