"""From a worker thread to the event loop and back: awaiting a host service while the guest waits."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from metacore.errors import Unavailable
from metacore.logs import get_logger

log = get_logger(__name__)

SETTLE_SECONDS: Final = 5.0
"""How long a cancelled host service may take to clean up before its invocation ends without it."""


class CallExpired(Unavailable):
    """There was no time left to wait, or nobody any more to wait for it. Never leaves this room."""

    code = "expired"


class _Outcome:
    """What a coroutine came to; `ready` is released once it is known."""

    __slots__ = ("error", "ready", "task", "value")

    def __init__(self) -> None:
        self.ready = threading.Lock()
        self.ready.acquire()
        self.value: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[Any] | None = None

    def take(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.error = CallExpired("cancelled")
        else:
            self.error = task.exception()
            if self.error is None:
                self.value = task.result()
        self.ready.release()


class LoopBridge:
    """One invocation's way to the loop that made it. The loop's side runs in the context of the caller."""

    def __init__(self) -> None:
        """Belongs to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def wait(self, make: Callable[[], Coroutine[Any, Any, Any]], timeout: float) -> Any:
        """Run the coroutine that `make` gives on the loop and wait for it; for the worker thread.

        Raises:
            CallExpired: it took longer than `timeout` seconds, or was cancelled; it is being cancelled.
            Exception: whatever it raised.
        """
        outcome = _Outcome()
        self._loop.call_soon_threadsafe(self._begin, make, outcome, context=self._context)
        if not outcome.ready.acquire(timeout=timeout):
            self._loop.call_soon_threadsafe(self._abandon, outcome)
            raise CallExpired(f"no answer within {timeout:g} s")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def cancel(self) -> None:
        """End what is under way and begin nothing more; for the loop."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def settled(self) -> None:
        """Return when nothing of this invocation runs on the loop any more, so that its connection may be reused.

        Being cancelled meanwhile changes nothing but the end of it.
        """
        task = self._task
        if task is None or task.done():
            return
        until = self._loop.time() + SETTLE_SECONDS
        cancelled = False
        while not task.done() and (left := until - self._loop.time()) > 0:
            try:
                await asyncio.wait({task}, timeout=left)
            except asyncio.CancelledError:
                cancelled = True
        if not task.done():
            log.error("wasm.host_service_hangs", task=task.get_name())
        if cancelled:
            raise asyncio.CancelledError

    def _begin(self, make: Callable[[], Coroutine[Any, Any, Any]], outcome: _Outcome) -> None:
        if self._cancelled:
            outcome.error = CallExpired("cancelled")
            outcome.ready.release()
            return
        try:
            self._task = outcome.task = self._loop.create_task(make())
        except BaseException as error:
            outcome.error = error
            outcome.ready.release()
            return
        self._task.add_done_callback(outcome.take)

    def _abandon(self, outcome: _Outcome) -> None:
        if outcome.task is not None:
            outcome.task.cancel()
