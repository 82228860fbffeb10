"""A few threads that run guests, shared fairly among addons, and the way to them from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from metacore.errors import MetacoreError, TooManyRequests, Unavailable
from metacore.wasm.fairness import FairQueue
from metacore.wasm.threads import start_guest_thread

WAITING_PER_ADDON: Final = 64
WAITING_IN_TOTAL: Final = 512
WAIT_SECONDS: Final = 10.0
"""A call that found no thread for so long is turned away."""

Result = TypeVar("Result")


def default_threads() -> int:
    """Guests compute without the interpreter's lock and wait for the database in host calls: a few more than cores."""
    return min(32, (os.cpu_count() or 1) + 2)


class _Job(Generic[Result]):
    """One call on its way. Everything but `run` belongs to the loop that made it."""

    def __init__(self, addon_key: str, work: Callable[[], Result]) -> None:
        self.addon_key = addon_key
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self.context = contextvars.copy_context()
        self.ended = False
        self.end: asyncio.Future[None] | None = None
        self.began = 0.0

    def run(self) -> None:
        """In the worker thread."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = self.context.run(self.work)
        except BaseException as raised:
            error = raised
        self._tell(result, error)

    def refuse(self, error: MetacoreError) -> None:
        """End a job that never ran; from any thread."""
        self._tell(None, error)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        # A loop that was closed under its calls has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._finish, result, error)

    def _finish(self, result: Any, error: BaseException | None) -> None:
        self.ended = True
        if self.end is not None and not self.end.done():
            self.end.set_result(None)
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    async def wait_for_end(self) -> None:
        """Wait until the worker is done with this job, however often the waiting task is cancelled meanwhile."""
        while not self.ended:
            self.end = self.end or self.loop.create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self.end})


class Pool:
    """Start it before use; `close` waits for the calls that run."""

    def __init__(
        self,
        threads: int | None = None,
        *,
        waiting_per_addon: int = WAITING_PER_ADDON,
        waiting_in_total: int = WAITING_IN_TOTAL,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.threads = threads or default_threads()
        self._queue: FairQueue[_Job[Any]] = FairQueue(self.threads, per_addon=waiting_per_addon, total=waiting_in_total)
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._workers: list[threading.Thread] = []

    def start(self) -> None:
        self._workers = [start_guest_thread(self._work, f"metacore-wasm-{number}") for number in range(self.threads)]

    async def close(self) -> None:
        """Take no more calls, turn away those that wait, and wait for those that run; whoever wants that quick cancels
        them first."""
        with self._changed:
            self._closed = True
            waiting = self._queue.drain()
            self._changed.notify_all()
        for job in waiting:
            job.refuse(_closing())
        await asyncio.to_thread(self._join)

    async def run(self, addon_key: str, work: Callable[[], Result], cancel: Callable[[], None]) -> Result:
        """Run `work` in a thread when it is the addon's turn. When the caller is cancelled, `cancel` must make `work`
        return soon; the cancellation goes on once it did, so that nothing of the call outlives it.

        Raises:
            TooManyRequests: too many calls of this addon, or of all, are waiting, or this one waited for too long.
            Unavailable: the pool is closed.
        """
        job = _Job(addon_key, work)
        with self._changed:
            if self._closed:
                raise _closing()
            if not self._queue.put(addon_key, job):
                raise _busy(addon_key)
            self._changed.notify()
        timer = job.loop.call_later(self._wait_seconds, self._give_up, job)
        try:
            return await job.future
        except asyncio.CancelledError:
            if not self._withdraw(job):
                cancel()
                await job.wait_for_end()
            raise
        finally:
            timer.cancel()

    def _withdraw(self, job: _Job[Any]) -> bool:
        with self._changed:
            return self._queue.withdraw(job.addon_key, job)

    def _give_up(self, job: _Job[Any]) -> None:
        if self._withdraw(job) and not job.future.done():
            job.future.set_exception(_busy(job.addon_key))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            with self._changed:
                self._queue.done(job.addon_key, job.began, time.monotonic())
                if self._queue:
                    self._changed.notify()
            del job

    def _next(self) -> _Job[Any] | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                job = self._queue.take(now)
                if job is not None:
                    job.began = now
                    return job
                self._changed.wait()
        return None

    def _join(self) -> None:
        for worker in self._workers:
            worker.join()


def _closing() -> Unavailable:
    return Unavailable("the sandbox is shutting down")


def _busy(addon_key: str) -> TooManyRequests:
    return TooManyRequests(f"addon {addon_key!r} has too many calls waiting", retry_after=1.0, code="sandbox_busy")
