"""The worker of one kernel process: it takes jobs when there are some and there is room, and runs them.

It sleeps until the database says that a job was written, until the next one is due, or until a running one ends. What
it takes is its own for a while, and stays so while the process lives: when it is killed, another worker takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from metacore.addons.jobs import job as endings
from metacore.addons.jobs import retry, store
from metacore.addons.jobs.job import ClaimedJob, Ending
from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.logs import get_logger
from metacore.metrics import Metrics

log = get_logger(__name__)

CONCURRENCY: Final = 8
LEASE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 15.0
"""What a lost NOTIFY costs at most; everything else has its time in the table."""
SHORTEST_SLEEP: Final = 0.05
"""Between two questions to the database when all that is due is held by others."""
TROUBLE_SECONDS: Final = 2.0
LONGEST_RUN: Final = 900.0
"""Seconds for one try. Code has its own limit (`backend.timeout_ms`, at most 600 s); this one is for what hangs."""
STOP_SECONDS: Final = 5.0

LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)

Work = Callable[[ClaimedJob], Awaitable[Ending]]


class JobWorker:
    """Runs jobs between `start` and `stop`. `kinds` gives what to do for each kind of job; `name` must be this
    process's alone."""

    def __init__(
        self,
        db: Database,
        kinds: Mapping[str, Work],
        *,
        name: str,
        listener: Listener | None = None,
        metrics: Metrics | None = None,
        concurrency: int = CONCURRENCY,
        lease: float = LEASE_SECONDS,
        poll: float = POLL_SECONDS,
    ) -> None:
        self._db = db
        self._kinds = kinds
        self._name = name[:128]
        self._store = store.store_of(db)
        self._metrics = metrics
        self._concurrency = concurrency
        # One addon alone never takes the whole worker.
        self._share = max(1, concurrency // 2)
        self._lease = lease
        self._poll = poll
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[None], ClaimedJob] = {}
        self._held: set[uuid.UUID] = set()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        if listener is not None:
            listener.subscribe(channels.JOBS, lambda _payload: self._wake.set())
            listener.on_reconnect(self._wake.set)

    @property
    def busy(self) -> int:
        """How many jobs run here right now."""
        return len(self._running)

    def wake(self) -> None:
        """There may be something to do. Costs nothing."""
        self._wake.set()

    async def start(self) -> None:
        if self._tasks:
            return
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._take_and_run(), name="metacore-jobs"),
            asyncio.create_task(self._keep(), name="metacore-jobs-lease"),
        ]

    async def stop(self) -> None:
        """Take nothing more, let what runs end for a while, and give the rest back to the others."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._stopping = True
        self._wake.set()
        # Not cancelled at once: what the database has given out would wait for its lease, with nobody to run it.
        await asyncio.wait(tasks[:1], timeout=STOP_SECONDS)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_SECONDS)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)

    async def _take_and_run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                sleep = await self._take()
            except LOST as error:
                log.warning("jobs.database_lost", error=type(error).__name__)
                sleep = TROUBLE_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(sleep):
                    await self._wake.wait()

    async def _take(self) -> float:
        """Begin as many jobs as there is room for; how many seconds may pass before there can be another one."""
        room = self._concurrency - len(self._running)
        if room <= 0:
            return self._poll
        jobs = await self._store.claim(self._name, room, self._share, self._lease)
        for job in jobs:
            if job.id in self._held:
                continue  # This process stood still for longer than its lease; what runs here goes on.
            self._held.add(job.id)
            # An empty context: a run must not carry what this loop happens to know.
            task = asyncio.get_running_loop().create_task(
                self._run(job), name=f"job:{job.kind}:{job.addon_key}", context=contextvars.Context()
            )
            self._running[task] = job
            task.add_done_callback(self._ended)
        self._gauge()
        due = await self._store.next_due()
        return self._poll if due is None else min(self._poll, max(SHORTEST_SLEEP, due))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._gauge()
        self._wake.set()

    async def _run(self, job: ClaimedJob) -> None:
        began = time.monotonic()
        try:
            ending = await self._one(job)
        except asyncio.CancelledError:
            if not self._stopping:
                raise  # It is somebody else's by now.
            ending = endings.released(job.attempts)
        finally:
            # Before the row is let go of: a schedule may be taken again at once.
            self._held.discard(job.id)
        try:
            mine = await store.let_go(self._db, self._name, job, ending)
        except LOST as error:
            # The lease runs out, and whoever takes it then runs it once more.
            log.warning("jobs.ending_lost", job=str(job.id), error=type(error).__name__)
            return
        self._count(job, ending, time.monotonic() - began)
        level = log.warning if ending.outcome in ("failed", "retried") else log.debug
        level(
            "job.ended",
            job=str(job.id),
            kind=job.kind,
            name=job.name,
            addon=job.addon_key,
            organization=str(job.organization_id),
            outcome=ending.outcome if mine else "superseded",
            attempts=job.attempts,
            error=ending.error or "",
        )

    async def _one(self, job: ClaimedJob) -> Ending:
        work = self._kinds.get(job.kind)
        if work is None:
            return endings.again(f"this kernel does not know jobs of kind {job.kind!r}", retry.pause(job.attempts))
        try:
            async with asyncio.timeout(LONGEST_RUN):
                return await work(job)
        except TimeoutError:
            error = f"no answer within {LONGEST_RUN:g} s"
        except Exception as problem:
            log.exception("job.broke", job=str(job.id), kind=job.kind, addon=job.addon_key)
            error = f"the kernel failed: {type(problem).__name__}"
        return endings.again(error, retry.pause(job.attempts))

    async def _keep(self) -> None:
        """Renew what runs, and stop what is not ours any more: it runs elsewhere."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._lease / 3)
            if not self._running:
                renewed = time.monotonic()
                continue
            before = dict(self._running)
            try:
                async with asyncio.timeout(self._lease / 3):
                    held = await self._store.renew(self._name, [job.id for job in before.values()], self._lease)
                renewed = time.monotonic()
            except LOST as error:
                log.warning("jobs.lease_not_renewed", error=type(error).__name__)
                if time.monotonic() - renewed < self._lease:
                    continue
                held = set()
            for task, job in before.items():
                if job.id not in held and not task.done():
                    log.warning("job.lost", job=str(job.id), addon=job.addon_key)
                    task.cancel()

    def _gauge(self) -> None:
        if self._metrics is not None:
            self._metrics.jobs_running.set(len(self._running))

    def _count(self, job: ClaimedJob, ending: Ending, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.jobs.labels(job.addon_key, job.kind, ending.outcome).inc()
            self._metrics.job_duration.labels(job.kind).observe(seconds)
