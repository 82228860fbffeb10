"""One run of a handler, and jobs that come once: handlers of an addon's life, parked events, inbound webhooks."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from metacore.addons.invocation import Invocation, Result, Runner, Trigger
from metacore.addons.jobs import job as endings
from metacore.addons.jobs import retry
from metacore.addons.jobs.job import ClaimedJob, Ending
from metacore.errors import Fenced, MetacoreError, NotFound, TooManyRequests
from metacore.installer.job_rows import LIFECYCLE
from metacore.logs import get_logger
from metacore.registry import LiveAddon, Registry

log = get_logger(__name__)

TRIGGERS: Final[Mapping[str, Trigger]] = {
    "lifecycle": "lifecycle",
    "schedule": "schedule",
    "event": "subscription",
    "subscription": "subscription",
    "webhook": "webhook",
}
CROWDED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run did not succeed. `crowded` means that it did not begin; such a try does not count."""

    message: str
    crowded: bool = False


class Runs:
    """Runs handlers where the addon is, there is trust, and its code is loaded. `load` reads the registry anew."""

    def __init__(self, registry: Registry, runner: Runner, load: Callable[[], Awaitable[int]]) -> None:
        self._registry = registry
        self._runner = runner
        self._load = load

    async def ready(self, job: ClaimedJob) -> LiveAddon:
        """The addon as this process serves it, once it is the one that the job speaks of.

        Raises:
            NotFound: it is not installed or enabled there, or cannot be served here.
            Fenced: its signature is no longer trusted.
        """
        found = self._served(job)
        if found is None or found.error or found.fenced_reason:
            # What was just committed may not have reached this process.
            await self._load()
            found = self._served(job)
        if found is None:
            raise NotFound(f"this kernel does not serve addon {job.addon_key!r} there", code="unknown_addon")
        if found.error:
            raise NotFound(f"addon {job.addon_key!r} is quarantined: {found.error}", code="quarantined")
        if found.fenced_reason:
            raise Fenced(f"addon {job.addon_key!r} is fenced: its signature is no longer trusted")
        return found

    async def run(
        self, job: ClaimedJob, payload: Mapping[str, Any], *, id: uuid.UUID, caller: str, **changes: Any
    ) -> Failure | None:
        """Run the job's handler once; None when it succeeded. `changes` replace parts of the invocation."""
        parts: dict[str, Any] = {
            "addon_key": job.addon_key,
            "organization_id": job.organization_id,
            "trigger": TRIGGERS[job.kind],
            "name": job.name,
            "handler": job.handled_by(),
            "payload": payload,
            "caller": caller,
            "id": id,
            **changes,
        }
        try:
            result: Result = await self._runner.run(Invocation(**parts))
        except TooManyRequests as error:
            return Failure(error.message, crowded=True)
        except MetacoreError as error:
            return Failure(f"{error.code}: {error.message}")
        except Exception as error:
            # Others read the row; the log tells the rest.
            log.exception("job.broke", job=str(job.id), kind=job.kind, addon=job.addon_key)
            return Failure(f"the kernel failed: {type(error).__name__}")
        if result.success:
            return None
        return Failure(f"{result.code or 'declined'}: {result.message}".removesuffix(": "))

    def _served(self, job: ClaimedJob) -> LiveAddon | None:
        snapshot = self._registry.snapshot
        installed = snapshot.installed.get(job.organization_id, {}).get(job.addon_key)
        addon = snapshot.addons.get(job.addon_key)
        if installed is None or addon is None:
            return None
        # Handlers of its life run where it is being disabled, too.
        if not installed.enabled and job.kind != LIFECYCLE:
            return None
        if job.digest and job.kind == LIFECYCLE and addon.digest != job.digest:
            return None
        return addon


class Once:
    """A job that comes once: done, or tried again until it was tried often enough."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def __call__(self, job: ClaimedJob) -> Ending:
        if job.attempts > job.max_attempts:
            return endings.failed("it ended the kernel each time it was tried")
        try:
            await self._runs.ready(job)
        except MetacoreError as error:
            return _after(job, Failure(f"{error.code}: {error.message}"))
        # Handlers of its life are those of the bundle that was installed with them.
        digest = job.digest if job.kind == LIFECYCLE else ""
        caller = f"{TRIGGERS[job.kind]}:{job.name}"
        failure = await self._runs.run(job, job.payload, id=job.id, caller=caller, digest=digest)
        return endings.done() if failure is None else _after(job, failure)


def _after(job: ClaimedJob, failure: Failure) -> Ending:
    if failure.crowded:
        return crowded(job, failure)
    if job.attempts >= job.max_attempts:
        return endings.failed(failure.message)
    return endings.again(failure.message, retry.pause(job.attempts))


def crowded(job: ClaimedJob, failure: Failure) -> Ending:
    """Others use all the room that there is: soon again, and it does not count."""
    ending = endings.again(failure.message, CROWDED_SECONDS)
    return Ending(ending.status, ending.outcome, ending.error, ending.after, changes={"attempts": job.attempts - 1})
