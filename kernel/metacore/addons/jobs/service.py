"""The jobs of one kernel process as one thing to start and stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

from metacore.addons.invocation import Runner
from metacore.addons.jobs.runs import Once, Runs
from metacore.addons.jobs.schedules import Schedules
from metacore.addons.jobs.subscriptions import Gate, Subscriptions
from metacore.addons.jobs.wakes import SWEEP_SECONDS, Wakes
from metacore.addons.jobs.worker import CONCURRENCY, LEASE_SECONDS, POLL_SECONDS, JobWorker
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.events.bus import Bus
from metacore.ids import new_uuid
from metacore.installer import job_rows
from metacore.installer.job_rows import Work
from metacore.metrics import Metrics
from metacore.registry import Registry

SQLITE_POLL_SECONDS: Final = 1.0
"""Nobody notifies there, and asking a file costs little."""


class Jobs:
    """`runner` runs handlers, `load` makes this process serve what the database says now, `leading` tells whether it
    numbers events. `gate` decides which events an addon may hear; without one it may hear what it subscribes to."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        runner: Runner,
        bus: Bus,
        *,
        load: Callable[[], Awaitable[int]],
        leading: Callable[[], bool],
        gate: Gate | None = None,
        listener: Listener | None = None,
        metrics: Metrics | None = None,
        concurrency: int = CONCURRENCY,
        lease: float = LEASE_SECONDS,
        poll: float = POLL_SECONDS,
        sweep: float = SWEEP_SECONDS,
    ) -> None:
        self._db = db
        # Also of two workers in one process, or in containers that share a host name, none has the other's name.
        self.name = f"{socket.gethostname()[:64]}-{os.getpid()}-{new_uuid().hex[:8]}"
        runs = Runs(registry, runner, load)
        once = Once(runs)
        self.worker = JobWorker(
            db,
            {
                job_rows.LIFECYCLE: once,
                job_rows.EVENT: once,
                job_rows.WEBHOOK: once,
                job_rows.SCHEDULE: Schedules(runs),
                job_rows.SUBSCRIPTION: Subscriptions(db, self.name, runs, gate),
            },
            name=self.name,
            listener=listener,
            metrics=metrics,
            concurrency=concurrency,
            lease=lease,
            poll=poll if db.dialect == "postgresql" else min(poll, SQLITE_POLL_SECONDS),
        )
        self.wakes = Wakes(db, bus, registry, leading=leading, woken=self.worker.wake, sweep_seconds=sweep)
        # What is installed brings jobs; on SQLite nobody notifies of them.
        registry.on_change(lambda _snapshot: self.worker.wake())
        self._running: AsyncExitStack | None = None

    async def start(self) -> None:
        if self._running is not None:
            return
        async with AsyncExitStack() as stack:
            await self.worker.start()
            stack.push_async_callback(self.worker.stop)
            await self.wakes.start()
            stack.push_async_callback(self.wakes.stop)
            self._running = stack.pop_all()

    async def stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()

    async def enqueue(self, work: Work) -> bool:
        """Write a job, to be run soon by some kernel; false when one with its `dedup` is there already."""
        async with self._db.transaction(work.organization_id) as connection:
            written = await job_rows.enqueue(connection, [work])
        self.worker.wake()
        return bool(written)
