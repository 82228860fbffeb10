"""Delivery of committed events to an addon's subscriptions: from the log, in order, at least once.

Each organization that has the addon has one row with its place in the organization's log. Whoever holds the row reads
on from there and calls the handlers one after the other. A handler that fails holds up its own addon in its own
organization only, and not for ever: after some tries the event is parked as a failed job of its own.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from sqlalchemy import ColumnElement, Table, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.addons.invocation import Handler
from metacore.addons.jobs import job as endings
from metacore.addons.jobs import retry, store
from metacore.addons.jobs.job import MAX_ERROR, ClaimedJob, Ending
from metacore.addons.jobs.runs import Failure, Runs, crowded
from metacore.capabilities.access import Access, CapabilityKind, Decision
from metacore.db.database import Database
from metacore.errors import Fenced, MetacoreError
from metacore.events.canonical import patterns_of
from metacore.installer import job_rows
from metacore.installer.job_rows import EVENT, IDLE, PENDING, Work, handler_of
from metacore.logs import get_logger
from metacore.manifest.model import Manifest
from metacore.orm import cause
from metacore.orm.tables import Event

log = get_logger(__name__)

EVENTS = cast(Table, Event.__table__)

WINDOW: Final = 1_000
"""Numbers of the log that one question covers, whatever matches in it."""
BATCH: Final = 50
UNSERVED_SECONDS: Final = 30.0
"""How soon to look again where the addon is quarantined; its events wait in the log."""
SLICE_SECONDS: Final = 10.0
"""After that long the row goes back into the line, so that a busy organization leaves room for others."""


class Gate(Protocol):
    """The part of `capabilities.access.Gate` that is asked here."""

    def decide(self, access: Access) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """One entry of `contributions.subscriptions`. `pattern` is a name, `prefix.*` or `*`."""

    pattern: str
    handler: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """Events of one window that some subscription wants, and the number up to which there are no more of them."""

    events: Sequence[Any]
    through: int
    last: bool


def subscriptions_of(manifest: Manifest) -> tuple[Subscription, ...]:
    return tuple(
        Subscription(str(entry.get("event", "")), handler_of(entry.get("handler"))) for entry in manifest.subscriptions
    )


class Subscriptions:
    def __init__(self, db: Database, worker: str, runs: Runs, gate: Gate | None) -> None:
        self._db = db
        self._worker = worker
        self._runs = runs
        self._gate = gate

    async def __call__(self, job: ClaimedJob) -> Ending:
        try:
            addon = await self._runs.ready(job)
        except Fenced as error:
            # Its events stop, and what happens meanwhile is not told later.
            return Ending(IDLE, "skipped", error=error.message, changes=await self._skipped(job))
        except MetacoreError as error:
            return Ending(job_rows.WAITING, "skipped", error.message, UNSERVED_SECONDS, changes={"attempts": 0})
        subscriptions = subscriptions_of(addon.manifest)
        return await _Delivery(self._db, self._worker, self._runs, self._gate, job, subscriptions).run()

    async def _skipped(self, job: ClaimedJob) -> dict[str, Any]:
        async with self._db.transaction(job.organization_id) as connection:
            last = await _last(connection, job.organization_id)
        return {"progress": max(job.progress, last), "delivered": 0, "attempts": 0}


class _Delivery:
    """One holding of one row. `_attempts` counts the tries of the event that is next."""

    def __init__(
        self,
        db: Database,
        worker: str,
        runs: Runs,
        gate: Gate | None,
        job: ClaimedJob,
        subscriptions: Sequence[Subscription],
    ) -> None:
        self._db = db
        self._worker = worker
        self._runs = runs
        self._gate = gate
        self._job = job
        self._subscriptions = subscriptions
        self._progress = job.progress
        self._delivered = job.delivered
        self._attempts = job.attempts

    async def run(self) -> Ending:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SLICE_SECONDS
        while True:
            found = await self._read()
            for event in found.events:
                ending = await self._tell(event)
                if ending is not None:
                    return ending
                if loop.time() > deadline:
                    return Ending(PENDING, "yielded", error="", after=0.0, changes=self._place())
            if found.through > self._progress:
                self._progress, self._delivered = found.through, 0
            if found.last:
                return Ending(IDLE, "done", error="", changes=self._place())

    def _place(self) -> dict[str, Any]:
        return {"progress": self._progress, "delivered": self._delivered, "attempts": 0}

    async def _tell(self, event: Any) -> Ending | None:
        """Call the handlers of one event that have not had it; the ending when this is not possible now."""
        job = self._job
        wanting = [(index, each) for index, each in enumerate(self._subscriptions) if _wants(each, event.event_type)]
        for index, subscription in wanting:
            if index < self._delivered:
                continue
            if self._attempts > job.max_attempts:
                failure: Failure | None = Failure("it ended the kernel each time it was tried")
            else:
                failure = await self._call(event, index, subscription)
            if failure is not None:
                if failure.crowded:
                    return _at(crowded(job, failure), self._progress, self._delivered)
                if self._attempts < job.max_attempts:
                    ending = endings.again(failure.message, retry.pause(self._attempts))
                    return _at(ending, self._progress, self._delivered, attempts=self._attempts)
                await self._park(event, index, subscription, failure)
            if not await self._move(delivered=index + 1):
                return _lost()
        if not await self._move(progress=event.sequence_num):
            return _lost()
        return None

    async def _call(self, event: Any, index: int, subscription: Subscription) -> Failure | None:
        job, caller = self._job, f"subscription:{subscription.pattern}"
        if event.depth > cause.LONGEST_CHAIN:
            log.warning("subscription.chain_ended", addon=job.addon_key, event_name=event.event_type, depth=event.depth)
            return None
        access = Access(job.addon_key, CapabilityKind.EVENT_SUBSCRIBE, event.event_type, job.organization_id, caller)
        if self._gate is not None and not self._gate.decide(access).allowed:
            return None  # The gate has recorded it; nothing is held up by what may not be heard.
        given = subscription.handler
        handler = Handler(cast(Any, given["kind"]), given["function"], given["url"])
        with cause.at(event.depth + 1):
            return await self._runs.run(
                job,
                _payload(event),
                id=uuid.uuid5(job.id, f"{event.sequence_num}:{index}"),
                caller=caller,
                name=event.event_type,
                handler=handler,
            )

    async def _move(self, *, progress: int | None = None, delivered: int = 0) -> bool:
        """Write how far it is; false when the row is not ours any more."""
        if progress is not None:
            self._progress = progress
        self._delivered = delivered
        # The next call is another one: it has all its tries before it.
        self._attempts = 1
        values = {"progress": self._progress, "delivered": delivered, "attempts": 1}
        return await store.keep(self._db, self._worker, self._job, values)

    async def _park(self, event: Any, index: int, subscription: Subscription, failure: Failure) -> None:
        """Keep what could not be told as a failed job, so that it can be seen and tried again by people."""
        job = self._job
        work = Work(
            id=uuid.uuid5(job.id, f"{event.sequence_num}:{index}"),
            organization_id=job.organization_id,
            addon_key=job.addon_key,
            kind=EVENT,
            name=event.event_type,
            handler=subscription.handler,
            payload=_payload(event),
            dedup=f"event:{event.sequence_num}:{index}",
            status=job_rows.FAILED,
            attempts=self._attempts,
            last_error=failure.message[:MAX_ERROR],
        )
        async with self._db.transaction(job.organization_id) as connection:
            await job_rows.enqueue(connection, [work])
        log.error(
            "subscription.parked",
            addon=job.addon_key,
            event_name=event.event_type,
            organization=str(job.organization_id),
            sequence_num=event.sequence_num,
            error=failure.message,
        )

    async def _read(self) -> Found:
        job, after = self._job, self._progress
        mine: tuple[ColumnElement[bool], ...] = (
            EVENTS.c.organization_id == job.organization_id,
            EVENTS.c.sequence_num > after,
            EVENTS.c.sequence_num <= after + WINDOW,
        )
        async with self._db.transaction(job.organization_id) as connection:
            last = await _last(connection, job.organization_id)
            wanted = _wanted(self._subscriptions)
            rows = (
                (
                    await connection.execute(
                        select(EVENTS).where(*mine, wanted).order_by(EVENTS.c.sequence_num).limit(BATCH)
                    )
                ).all()
                if self._subscriptions
                else []
            )
        if len(rows) == BATCH:
            return Found(rows, rows[-1].sequence_num, last=False)
        return Found(rows, min(after + WINDOW, last), last=last <= after + WINDOW)


async def _last(connection: AsyncConnection, organization_id: uuid.UUID) -> int:
    """The number of the organization's newest event, 0 when there is none."""
    statement = select(func.max(EVENTS.c.sequence_num)).where(EVENTS.c.organization_id == organization_id)
    return int(await connection.scalar(statement) or 0)


def _wanted(subscriptions: Sequence[Subscription]) -> ColumnElement[bool]:
    if any(each.pattern == "*" for each in subscriptions):
        return EVENTS.c.sequence_num.is_not(None)
    kind = EVENTS.c.event_type
    names = [each.pattern for each in subscriptions if not each.pattern.endswith(".*")]
    prefixes = [each.pattern.removesuffix("*") for each in subscriptions if each.pattern.endswith(".*")]
    return or_(kind.in_(names), *(kind.startswith(prefix, autoescape=True) for prefix in prefixes))


def _wants(subscription: Subscription, name: str) -> bool:
    return subscription.pattern in patterns_of(name)


def _payload(event: Any) -> dict[str, Any]:
    return {
        "event": event.event_type,
        "addon": event.addon_key,
        "sequence_num": event.sequence_num,
        "data": event.data,
        "tags": event.tags,
        "actor_id": str(event.actor_id) if event.actor_id is not None else None,
        "created_at": event.created_at.isoformat(),
    }


def _at(ending: Ending, progress: int, delivered: int, **changes: Any) -> Ending:
    place = {"progress": progress, "delivered": delivered, **ending.changes, **changes}
    return Ending(ending.status, ending.outcome, ending.error, ending.after, changes=place)


def _lost() -> Ending:
    return Ending(IDLE, "superseded")
