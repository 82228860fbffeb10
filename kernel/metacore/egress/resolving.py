"""Looking up names by the system's resolver, so that the dead names of one addon hold up nobody else's.

The resolver blocks its thread until the name server answers or ten, twenty seconds are over, also when nobody waits any
more. So what counts is not who waits but which threads are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakValueDictionary

from metacore.errors import Unavailable

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host name, best first; OSError when there are none."""

Question = tuple[str, int]
LookUp = Callable[[str, int], Sequence[str]]
"""The same, blocking."""

owner: ContextVar[str] = ContextVar("metacore_egress_owner", default="")
"""For whom the request is that is being sent; '' for the kernel's own, which are not bounded."""

RESOLVER_THREADS: Final = 8
LOOKUPS_OF_ONE_OWNER: Final = 2
WAIT_SECONDS: Final = 2.0
"""How long a lookup waits for others of its owner. Where names are answered at all, that is many of them."""
UNKNOWN_SECONDS: Final = 5.0
"""How long a name that could not be resolved is not asked for again."""
MOST_UNKNOWN: Final = 1_000
BUSY: Final = "resolver_busy"


class SystemResolver:
    """Threads of its own look names up, and of one owner at most `LOOKUPS_OF_ONE_OWNER` at a time, each counted until
    its thread is free again. Who asks for a name that is being looked up waits for that answer. One per event loop."""

    def __init__(self, look_up: LookUp | None = None, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._look_up = look_up or _system_look_up
        self._wait_seconds = wait_seconds
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: dict[Question, asyncio.Future[Sequence[str]]] = {}
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._unknown: OrderedDict[Question, float] = OrderedDict()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """See `Resolver`.

        Raises:
            OSError: no addresses.
            Unavailable: `resolver_busy`.
        """
        question = (host, port)
        if self._unknown.get(question, 0.0) > time.monotonic():
            raise OSError(f"{host} could not be resolved a moment ago")
        lookup = self._under_way.get(question)
        if lookup is None:
            slot = await self._slot(owner.get())
            # While this one waited, another may have asked the same.
            lookup = self._under_way.get(question)
            if lookup is None:
                lookup = self._begin(question, slot)
            elif slot is not None:
                slot.release()
        # Others may wait for it, and its thread goes on in any case.
        return await asyncio.shield(lookup)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _slot(self, name: str) -> asyncio.Semaphore | None:
        if not name:
            return None
        slot = self._owners.get(name)
        if slot is None:
            slot = self._owners[name] = asyncio.Semaphore(LOOKUPS_OF_ONE_OWNER)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await slot.acquire()
        except TimeoutError:
            raise Unavailable(
                f"{LOOKUPS_OF_ONE_OWNER} names of {name!r} are being looked up and get no answer; try again later",
                code=BUSY,
            ) from None
        return slot

    def _begin(self, question: Question, slot: asyncio.Semaphore | None) -> asyncio.Future[Sequence[str]]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "metacore-resolver")
        loop = asyncio.get_running_loop()
        working = self._threads.submit(self._look_up, *question)
        lookup = self._under_way[question] = asyncio.wrap_future(working)

        def ended(_: Future[Sequence[str]]) -> None:
            # The loop is gone when a lookup outlives it; then nobody counts any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, question, working, slot)

        working.add_done_callback(ended)
        lookup.add_done_callback(_seen)
        return lookup

    def _ended(self, question: Question, working: Future[Sequence[str]], slot: asyncio.Semaphore | None) -> None:
        del self._under_way[question]
        if slot is not None:
            slot.release()
        if not working.cancelled() and isinstance(working.exception(), OSError):
            self._unknown[question] = time.monotonic() + UNKNOWN_SECONDS
            self._unknown.move_to_end(question)
            while len(self._unknown) > MOST_UNKNOWN:
                self._unknown.popitem(last=False)


def _system_look_up(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _seen(lookup: asyncio.Future[Any]) -> None:
    """Take note of what it came to: whoever wanted to know may be gone."""
    if not lookup.cancelled():
        lookup.exception()
