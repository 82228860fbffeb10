"""Runs the reconcile over the Addons of a cluster: retrying, noticing what happens outside, applying deletions.

kopf calls `seen`, `gone` and `removed`; the work is done here by a fixed number of workers, so that many Addons at once
wait in a queue and not in memory or on the database.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from metacore.errors import MetacoreError
from metacore.logs import get_logger
from metacore_operator import conditions
from metacore_operator.cluster.board import Board
from metacore_operator.cluster.health import Beats
from metacore_operator.cluster.ledger import Ledger, Record, read_record
from metacore_operator.cluster.nudges import Nudges
from metacore_operator.cluster.tenancy import TenantsOf
from metacore_operator.cluster.trust import SecretTrust
from metacore_operator.conditions import Event, Summary
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting, retry_delay
from metacore_operator.queue import WorkQueue
from metacore_operator.resources.addon import REQUESTED_AT, Addon
from metacore_operator.resources.status import AddonStatus
from metacore_operator.settings import OperatorSettings
from metacore_operator.steps.context import Ports
from metacore_operator.steps.fence import TrustFollowing
from metacore_operator.steps.reconcile import echoing, reconcile, remove
from metacore_operator.steps.state import Pulse

log = get_logger(__name__)

T = TypeVar("T")

PULSE_LOOP = "pulse"
PULSE_LATE_SECONDS = 120.0
"""A pulse asks the API server and the database, each with a deadline; a loop that is this late hangs."""
LONGEST_RETRY_SECONDS = 60.0
WORK_LATE_SECONDS = 7_200.0
"""Work on one Addon that shows no progress for so long hangs. The longest statement that is meant is the installer's
INDEX_TIMEOUT of one hour, and an attempt's own login (LOGIN_LIFE) lasts two."""


class Background(Protocol):
    """Work of the owner role that goes on beside the Addons: tenants' requests, housekeeping."""

    async def run(self, stop: asyncio.Event) -> None: ...


class ClusterRunner:
    def __init__(
        self,
        ports: Ports,
        board: Board,
        trust: SecretTrust,
        beats: Beats,
        metrics: OperatorMetrics,
        settings: OperatorSettings,
        *,
        finalizer: str,
        background: Sequence[Background] = (),
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._ports = ports
        self._board = board
        self._trust = trust
        self._beats = beats
        self._metrics = metrics
        self._settings = settings
        self._finalizer = finalizer
        self._background = tuple(background)
        self._now = now
        self._ledger = Ledger(finalizer)
        self._nudges = Nudges(self._ledger, board)
        self._queue = WorkQueue()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._troubles: dict[str, str] = {}
        self._trust_following = TrustFollowing(ports, trust.reload, self._want)

    # What kopf calls

    def seen(self, document: Mapping[str, Any]) -> None:
        """An Addon was listed, made or changed."""
        name, wanted = self._ledger.see(document)
        record = self._ledger.get(name)
        if record is None or record.deleting:
            self._queue.forget(name)
        elif wanted and record.held:
            self._queue.succeeded(name)
            self._queue.add(name)

    def gone(self, document: Mapping[str, Any]) -> None:
        """An Addon is no longer there."""
        metadata = document["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        if self._ledger.forget(name, metadata["uid"]):
            self._queue.forget(name)

    async def removed(self, document: Mapping[str, Any]) -> Outcome:
        """Take what a deleted Addon installed away; Done when the object may go, Waiting when it may not yet."""
        self._ledger.see(document)
        name = read_record(document, self._finalizer).addon.full_name
        with self._beats.busy(f"removing {name}", WORK_LATE_SECONDS):
            return await self._removed(name, document)

    async def _removed(self, name: str, document: Mapping[str, Any]) -> Outcome:
        async with self._alone(name):
            record = self._ledger.get(name) or read_record(document, self._finalizer)
            addon = record.addon
            outcome = await remove(addon, self._ports)
            if isinstance(outcome, Waiting):
                summary = conditions.deleting(addon.status, addon.metadata.generation, outcome, now=self._now())
                await self._publish(name, addon, summary)
            else:
                await self._board.tell(addon.metadata, Event("Normal", outcome.reason, outcome.message))
        return outcome

    # Running

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; an installation under way is left at once and taken up at the next start.

        Trusted keys that cannot be known yet are asked for at each pulse; Addons, and tenants' installations, wait.
        """
        self._beats.expect(PULSE_LOOP, PULSE_LATE_SECONDS)
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(task)
                for task in (
                    self._pulse(stop),
                    *(self._work() for _ in range(self._settings.workers)),
                    *(work.run(stop) for work in self._background),
                )
            ]
            await stop.wait()
            for task in running:
                task.cancel()

    async def _pulse(self, stop: asyncio.Event) -> None:
        before: Pulse | None = None
        while not stop.is_set():
            await self._guarded("trust", self._trust_following.run())
            pulse = await self._guarded("database", self._ports.state.pulse())
            if pulse is not None and before is not None:
                self._want(pulse.changed_since(before))
            before = pulse or before
            await self._guarded("nudges", self._nudges.run())
            self._metrics.waiting(self._queue.depth)
            self._metrics.addons(self._ledger.by_phase())
            self._beats.beat(PULSE_LOOP)
            await asyncio.sleep(self._settings.pulse)

    async def _guarded(self, what: str, work: Awaitable[T]) -> T | None:
        """The answer of `work`, or None when it failed; each kind of failure is told once until it ends."""
        try:
            async with asyncio.timeout(PULSE_LATE_SECONDS / 3):
                answer = await work
        except Exception as error:
            words = _words(error)
            if self._troubles.get(what) != words:
                self._troubles[what] = words
                log.warning("addons.pulse_failed", what=what, error=words)
            return None
        self._troubles.pop(what, None)
        return answer

    def _want(self, keys: frozenset[str] | None) -> None:
        """Look again at the Addons of these keys and at those that require one of them; None: at all."""
        if keys is None:
            self._want_all()
        elif keys:
            wanted = keys | self._ports.demands.dependents(keys)
            for name in self._ledger.names:
                record = self._ledger.get(name)
                if record is not None and record.addon.key in wanted and record.held and not record.deleting:
                    self._queue.add(name)

    def _want_all(self) -> None:
        for name in self._ledger.names:
            record = self._ledger.get(name)
            if record is not None and record.held and not record.deleting:
                self._queue.add(name)

    async def _work(self) -> None:
        while True:
            async with self._queue.take() as name:
                began = time.monotonic()
                try:
                    with self._beats.busy(f"work on {name}", WORK_LATE_SECONDS) as beat:
                        async with self._alone(name):
                            outcome = await self._one(name, beat)
                    if outcome is not None:
                        self._metrics.reconciled(type(outcome).__name__.lower(), time.monotonic() - began)
                except Exception as error:
                    self._metrics.reconciled("failed", time.monotonic() - began)
                    log.warning("addon.reconcile_failed", addon=name, error=_words(error), exc_info=_unexpected(error))
                    self._queue.add(name, _capped(retry_delay(self._queue.failed(name))))

    async def _one(self, name: str, beat: Callable[[], None]) -> Outcome | None:
        """What became of it; None when there was nothing to do."""
        record = self._ledger.get(name)
        if record is None or record.deleting or not record.held:
            return None
        self._trust.current()  # While they are not known, nothing may be decided about an Addon.
        addon = record.addon
        if record.problem:
            refused = echoing(self._refused(record), addon, {REQUESTED_AT})
            await self._publish(name, addon, refused)
            self._queue.add(name, self._settings.resync)
            return refused.decisive
        generation = addon.metadata.generation
        if addon.status.observed_generation != generation and not (addon.spec.suspend or addon.paused):
            began = conditions.began(addon.status, generation, now=self._now())
            if not await self._show(name, addon, began):
                return None
            addon = addon.model_copy(update={"status": began})
        state = TenantsOf(self._ports.state, addon.metadata.namespace, self._settings.rules)
        ports = replace(self._ports, state=state, progress=lambda _step: beat())
        summary = await reconcile(addon, ports, now=self._now)
        if await self._publish(name, addon, summary):
            self._schedule(name, summary.decisive)
        return summary.decisive

    def _schedule(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Waiting):
            failures = self._queue.failed(name)
            delay = outcome.retry_after if outcome.retry_after is not None else retry_delay(failures)
            self._queue.add(name, min(delay, self._settings.resync))
            return
        if isinstance(outcome, Done):
            self._queue.succeeded(name)
        self._queue.add(name, self._settings.resync)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Nothing else works on this Addon meanwhile: neither a worker nor its removal."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)

    # Telling

    def _refused(self, record: Record) -> Summary:
        addon = record.addon
        return conditions.refused(
            addon.status,
            addon.metadata.generation,
            Reason.SPEC_INVALID,
            record.problem,
            now=self._now(),
            history_limit=addon.spec.revision_history_limit,
        )

    async def _publish(self, name: str, addon: Addon, summary: Summary) -> bool:
        """Show the status, then tell the Events of what changed; in this order, so that what is told was shown."""
        if not await self._show(name, addon, summary.status):
            return False
        for event in summary.events:
            await self._board.tell(addon.metadata, event)
        return True

    async def _show(self, name: str, addon: Addon, status: AddonStatus) -> bool:
        if status == addon.status:
            return True
        shown = await self._board.show(addon.metadata, status)
        if shown:
            self._ledger.set_status(name, addon.metadata.uid, status)
        return shown


def _capped(seconds: float) -> float:
    return min(seconds, LONGEST_RETRY_SECONDS)


def _unexpected(error: Exception) -> bool:
    return not isinstance(error, MetacoreError)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, MetacoreError) else type(error).__name__
