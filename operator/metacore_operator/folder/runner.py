"""Runs the reconcile over a folder: watching, retrying, noticing what happens outside, applying deletions."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from watchfiles import awatch

from metacore.errors import MetacoreError
from metacore.logs import get_logger
from metacore_operator import conditions
from metacore_operator.conditions import Event, Summary
from metacore_operator.folder.documents import SUFFIXES, read_folder
from metacore_operator.folder.ledger import Ledger
from metacore_operator.folder.store import Record, Store
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting, retry_delay
from metacore_operator.queue import WorkQueue
from metacore_operator.resources.addon import Addon
from metacore_operator.settings import ReconcileSettings
from metacore_operator.steps.context import Ports
from metacore_operator.steps.fence import TrustFollowing
from metacore_operator.steps.reconcile import reconcile, remove
from metacore_operator.steps.state import Pulse
from metacore_operator.trust import Trust

log = get_logger(__name__)

T = TypeVar("T")

WATCH_DEBOUNCE_MS = 300
WATCH_STEP_MS = 50


class Companion(Protocol):
    """Work that needs the same rights as a reconcile and runs beside it: wishes of tenants, housekeeping."""

    async def run(self, stop: asyncio.Event) -> None: ...


class FolderRunner:
    """Keeps the addons that `root` declares as declared, until it is told to stop.

    `on_event` hears what happened to an Addon (by default the log does), `on_progress` what an installation is doing
    right now; both must be quick and not raise.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        ports: Ports,
        trust: Trust,
        *,
        companions: Sequence[Companion] = (),
        settings: ReconcileSettings | None = None,
        on_event: Callable[[Addon, Event], None] | None = None,
        on_progress: Callable[[Addon, str], None] = lambda _addon, _text: None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._root = root
        self._ports = ports
        self._companions = tuple(companions)
        self._settings = settings or ReconcileSettings()
        self._on_event = on_event or _log_event
        self._on_progress = on_progress
        self._now = now
        self._ledger = Ledger(store)
        self._queue = WorkQueue()
        self._missing_since: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._trust_following = TrustFollowing(ports, lambda: asyncio.to_thread(trust.reload), self._want)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; an installation under way is left at once and taken up at the next start."""
        await asyncio.to_thread(self._ledger.load)
        await self._guarded("trust", self._trust_following.verify())
        await self._scan()
        self._want_all()
        tasks = [
            self._watch(stop),
            self._resync(stop),
            self._pulse(stop),
            *(self._work() for _ in range(self._settings.workers)),
        ]
        tasks += [companion.run(stop) for companion in self._companions]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
            await stop.wait()
            for task in running:
                task.cancel()

    def status(self, name: str) -> Addon | None:
        """The Addon called `namespace/name` with its status."""
        record = self._ledger.get(name)
        return record.addon if record is not None else None

    # Noticing

    async def _watch(self, stop: asyncio.Event) -> None:
        async for changes in awatch(self._root, stop_event=stop, debounce=WATCH_DEBOUNCE_MS, step=WATCH_STEP_MS):
            paths = [Path(path) for _change, path in changes]
            if any(path.suffix in SUFFIXES for path in paths):
                await self._scan()
            if any(path.suffix not in SUFFIXES for path in paths):
                self._want_all()

    async def _resync(self, stop: asyncio.Event) -> None:
        """Read the folder now and then though nothing was told: not every file system tells of changes."""
        while not await _stopped(stop, self._settings.resync):
            await self._scan()

    async def _pulse(self, stop: asyncio.Event) -> None:
        before: Pulse | None = None
        while not await _stopped(stop, self._settings.pulse):
            await self._guarded("trust", self._trust_following.run())
            pulse = await self._guarded("database", self._ports.state.pulse())
            if pulse is not None and before is not None:
                self._want(pulse.changed_since(before))
            before = pulse or before

    async def _guarded(self, what: str, work: Awaitable[T]) -> T | None:
        """The answer of `work`, or None when it failed; each kind of failure is told once until it ends."""
        try:
            answer = await work
        except Exception as error:
            words = _words(error)
            if self._troubles.get(what) != words:
                self._troubles[what] = words
                log.warning("addons.pulse_failed", what=what, error=words)
            return None
        self._troubles.pop(what, None)
        return answer

    async def _scan(self) -> None:
        try:
            contents = await asyncio.to_thread(read_folder, self._root)
        except OSError as error:
            log.error("addons.folder_unreadable", folder=str(self._root), error=error.strerror)
            return
        changes = self._ledger.apply(contents)
        for problem in changes.problems:
            log.error("addon.declaration_invalid", file=problem.place, addon=problem.name, error=problem.message)
        for name, problem in changes.broken.items():
            self._tell_broken(name, f"{problem.place}: {problem.message}")
        for name in changes.wanted:
            self._queue.succeeded(name)
            self._queue.add(name)
        now = asyncio.get_running_loop().time()
        self._missing_since = {name: self._missing_since.get(name, now) for name in changes.missing}
        for name in changes.missing:
            self._queue.add(name, self._settings.settle)

    def _want(self, keys: frozenset[str] | None) -> None:
        """Look again at the Addons of these keys and at those that require one of them; None: at all."""
        if keys is None:
            self._want_all()
        elif keys:
            wanted = keys | self._ports.demands.dependents(keys)
            for name in self._ledger.names:
                record = self._ledger.get(name)
                if record is not None and record.addon.key in wanted and name not in self._missing_since:
                    self._queue.add(name)

    def _want_all(self) -> None:
        for name in self._ledger.names:
            if name not in self._missing_since:
                self._queue.add(name)

    # Working

    async def _work(self) -> None:
        while True:
            async with self._queue.take() as name:
                try:
                    await self._one(name)
                except Exception as error:
                    log.exception("addon.reconcile_failed", addon=name, error=_words(error))
                    self._queue.add(name, retry_delay(self._queue.failed(name)))

    async def _one(self, name: str) -> None:
        if name in self._missing_since and not await self._gone(name):
            return
        record = self._ledger.get(name)
        if record is None:
            return
        if record.deleting:
            await self._remove(name, record)
        elif name not in self._ledger.broken:
            await self._reconcile(name, record.addon)

    async def _gone(self, name: str) -> bool:
        """Whether the declaration has stayed away long enough; then the Addon is marked as being deleted."""
        await self._scan()
        since = self._missing_since.get(name)
        if since is None:
            return False
        rest = since + self._settings.settle - asyncio.get_running_loop().time()
        if rest > 0:
            self._queue.add(name, rest)
            return False
        self._ledger.mark_deleting(name)
        del self._missing_since[name]
        return True

    async def _reconcile(self, name: str, addon: Addon) -> None:
        held = addon.spec.suspend or addon.paused
        if addon.status.observed_generation != addon.metadata.generation and not held:
            began = conditions.began(addon.status, addon.metadata.generation, now=self._now())
            addon = self._ledger.set_status(name, began) or addon
        ports = replace(self._ports, progress=lambda text: self._on_progress(addon, text))
        summary = await reconcile(addon, ports, now=self._now)
        current = self.status(name)
        if current is not None and current.status != addon.status:
            # The file broke while this ran, which was told: that must be seen, and what comes of it told anew.
            self._queue.add(name)
            return
        self._publish(name, summary)
        self._schedule(name, summary.decisive)

    async def _remove(self, name: str, record: Record) -> None:
        outcome = await remove(record.addon, self._ports)
        current = self._ledger.get(name)
        if current is None or not current.deleting:
            # It was declared again meanwhile: the next reconcile installs it anew.
            self._queue.add(name)
            return
        if isinstance(outcome, Waiting):
            generation = record.addon.metadata.generation
            self._publish(name, conditions.deleting(record.addon.status, generation, outcome, now=self._now()))
            self._schedule(name, outcome)
            return
        self._ledger.forget(name)
        self._queue.forget(name)
        self._on_event(record.addon, Event("Normal", outcome.reason, outcome.message))

    def _schedule(self, name: str, outcome: Outcome) -> None:
        if isinstance(outcome, Waiting):
            failures = self._queue.failed(name)
            delay = outcome.retry_after if outcome.retry_after is not None else retry_delay(failures)
            self._queue.add(name, min(delay, self._settings.resync))
            return
        if isinstance(outcome, Done):
            self._queue.succeeded(name)
        self._queue.add(name, self._settings.resync)

    # Telling

    def _publish(self, name: str, summary: Summary) -> None:
        addon = self._ledger.set_status(name, summary.status)
        if addon is not None:
            for event in summary.events:
                self._on_event(addon, event)

    def _tell_broken(self, name: str, message: str) -> None:
        addon = self.status(name)
        if addon is None:
            return
        status = addon.status
        self._publish(
            name,
            conditions.refused(
                status,
                status.observed_generation,
                Reason.SPEC_INVALID,
                message,
                now=self._now(),
                history_limit=addon.spec.revision_history_limit,
            ),
        )


def _log_event(addon: Addon, event: Event) -> None:
    level = log.warning if event.type == "Warning" else log.info
    level("addon.event", addon=addon.full_name, reason=event.reason.value, told=event.message)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for `stop`, at most `seconds`; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


def _words(error: Exception) -> str:
    return error.message if isinstance(error, MetacoreError) else type(error).__name__
