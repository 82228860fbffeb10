"""Which Addons want a reconcile, and when: each name once, never two at a time on one name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WorkQueue:
    """After controller-runtime's work queue. A name added while it is worked on comes again afterwards.

    `failures` counts tries in a row that did not end well, for the growing delay between them.
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._changed = asyncio.Event()

    def add(self, name: str, delay: float = 0.0) -> None:
        """Want `name` after `delay` seconds; an earlier wish stays."""
        due = asyncio.get_running_loop().time() + delay
        if due < self._due.get(name, float("inf")):
            self._due[name] = due
            self._changed.set()

    def failed(self, name: str) -> int:
        """Count one more failure in a row and give their number."""
        self._failures[name] = self._failures.get(name, 0) + 1
        return self._failures[name]

    @property
    def depth(self) -> int:
        """How many are due and wait for a worker."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now for due in self._due.values())

    def succeeded(self, name: str) -> None:
        self._failures.pop(name, None)

    def forget(self, name: str) -> None:
        self._due.pop(name, None)
        self._failures.pop(name, None)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[str]:
        """Wait for the next name that is due; it is free again for others when the block ends."""
        name = await self._next()
        self._busy.add(name)
        try:
            yield name
        finally:
            self._busy.discard(name)
            self._changed.set()

    async def _next(self) -> str:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            waiting = [(due, name) for name, due in self._due.items() if name not in self._busy]
            if not waiting:
                await self._changed.wait()
                continue
            due, name = min(waiting)
            delay = due - loop.time()
            if delay <= 0:
                del self._due[name]
                return name
            # Which of the two ends the wait does not matter: everything is looked at again.
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue
