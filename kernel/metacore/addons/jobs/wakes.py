"""Who reads on when an event was committed: subscriptions are woken by the bus of the process that numbers events.

Waking is only a hint. What is delivered, and from where, is decided by each row's own place in the log; what nobody
woke is found by a sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Final, cast

from sqlalchemy import Table, case, select, tuple_, update

from metacore.addons.jobs.subscriptions import subscriptions_of
from metacore.addons.jobs.worker import LOST, TROUBLE_SECONDS
from metacore.db import channels
from metacore.db.database import Database
from metacore.events.bus import Bus, BusEvent
from metacore.events.canonical import patterns_of
from metacore.ids import KERNEL_ADDON_KEY
from metacore.installer.job_rows import IDLE, PENDING, RUNNING, SUBSCRIPTION
from metacore.logs import get_logger
from metacore.orm.tables import EventCounter, Job
from metacore.registry import Registry, Snapshot

log = get_logger(__name__)

JOBS = cast(Table, Job.__table__)
COUNTERS = cast(Table, EventCounter.__table__)

GATHER_SECONDS: Final = 0.05
"""Events of so long a time wake together."""
SWEEP_SECONDS: Final = 30.0

WAKE: Final = "SELECT pg_notify($3, '') FROM metacore_wake_subscriptions($1, $2) AS woken WHERE woken > 0"
SWEEP: Final = "SELECT pg_notify($1, '') FROM metacore_sweep_subscriptions() AS woken WHERE woken > 0"

Place = tuple[str, uuid.UUID]


class Wakes:
    """Between `start` and `stop`, events on `bus` wake the subscriptions that want them. `leading` tells whether this
    process numbers events: all processes hear of them, one wakes. `woken` is called after waking here."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        registry: Registry,
        *,
        leading: Callable[[], bool],
        woken: Callable[[], None],
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._db = db
        self._bus = bus
        self._registry = registry
        self._leading = leading
        self._woken = woken
        self._sweep_seconds = sweep_seconds
        self._patterns: dict[str, frozenset[str]] = {}
        self._patterns_of: Snapshot | None = None
        self._wanted: set[Place] = set()
        self._some = asyncio.Event()
        self._end: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._end = self._bus.subscribe(KERNEL_ADDON_KEY, "*", self._heard)
            self._task = asyncio.create_task(self._work(), name="metacore-wakes")

    async def stop(self) -> None:
        self._end()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _heard(self, event: BusEvent) -> None:
        if event.sequence_num is None or not self._leading():
            return  # What is not in the log is not delivered from there.
        snapshot = self._registry.snapshot
        if snapshot is not self._patterns_of:
            self._index(snapshot)
        if not self._patterns:
            return
        installed = snapshot.installed.get(event.organization_id, {})
        for pattern in patterns_of(event.name):
            for key in self._patterns.get(pattern, ()):
                if key in installed and installed[key].enabled:
                    self._wanted.add((key, event.organization_id))
                    self._some.set()

    def _index(self, snapshot: Snapshot) -> None:
        found: dict[str, set[str]] = {}
        for key, addon in snapshot.addons.items():
            for subscription in subscriptions_of(addon.manifest):
                found.setdefault(subscription.pattern, set()).add(key)
        self._patterns = {pattern: frozenset(keys) for pattern, keys in found.items()}
        self._patterns_of = snapshot

    async def _work(self) -> None:
        led, swept = False, -self._sweep_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._sweep_seconds)):
                    await self._some.wait()
            self._some.clear()
            leading = self._leading()
            try:
                if leading and (not led or time.monotonic() - swept > self._sweep_seconds):
                    # The process that led before may have died with what it was about to wake.
                    swept = time.monotonic()
                    await self._sweep()
                led = leading
                if self._wanted:
                    await asyncio.sleep(GATHER_SECONDS)
                    await self._wake()
            except LOST as error:
                log.warning("wakes.database_lost", error=type(error).__name__)
                led = False
                await asyncio.sleep(TROUBLE_SECONDS)

    async def _wake(self) -> None:
        places, self._wanted = self._wanted, set()
        if self._db.dialect == "postgresql":
            keys, organizations = [key for key, _ in places], [organization for _, organization in places]
            await self._db.postgres.execute(WAKE, keys, organizations, channels.JOBS)
        else:
            mine = (JOBS.c.kind == SUBSCRIPTION, tuple_(JOBS.c.addon_key, JOBS.c.organization_id).in_(places))
            status = case((JOBS.c.status == IDLE, PENDING), else_=JOBS.c.status)
            async with self._db.transaction(None) as connection:
                await connection.execute(
                    update(JOBS).where(*mine, JOBS.c.status.in_([IDLE, RUNNING])).values(wanted=True, status=status)
                )
        self._woken()

    async def _sweep(self) -> None:
        if self._db.dialect == "postgresql":
            await self._db.postgres.execute(SWEEP, channels.JOBS)
        else:
            newest = (
                select(COUNTERS.c.value).where(COUNTERS.c.organization_id == JOBS.c.organization_id).scalar_subquery()
            )
            behind = (JOBS.c.kind == SUBSCRIPTION, JOBS.c.status == IDLE, JOBS.c.progress < newest)
            async with self._db.transaction(None) as connection:
                await connection.execute(update(JOBS).where(*behind).values(status=PENDING))
        self._woken()
