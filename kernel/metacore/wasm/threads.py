"""Threads that may run guests: their stacks are large enough whatever the process was started with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from metacore.wasm.limits import THREAD_STACK_BYTES

Result = TypeVar("Result")

_starting = threading.Lock()


def start_guest_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A running daemon thread. The size of stacks is a setting of the whole process, so it is put back at once; another
    thread that starts in between merely gets a larger one."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    with _starting:
        before = threading.stack_size(THREAD_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    return thread


def run_in_guest_thread(work: Callable[[], Result], name: str) -> Result:
    """Run `work` in a thread of its own and wait for it; what it raises is raised here."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    start_guest_thread(run, name).join()
    return future.result()
