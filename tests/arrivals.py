"""Waiting for things that happen elsewhere, without guessing how long they take."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds until a test gives up; nothing is ever expected to take that long."""


class Arrivals(Generic[T]):
    """A list that can be waited for. Calling it adds to it, so it serves as a callback."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._added = asyncio.Event()

    def __call__(self, item: T) -> None:
        self.items.append(item)
        self._added.set()

    async def reach(self, count: int) -> list[T]:
        """The items, as soon as there are at least `count`."""
        async with asyncio.timeout(PATIENCE):
            while len(self.items) < count:
                self._added.clear()
                await self._added.wait()
        return self.items

    async def reach_item(self, item: T) -> None:
        """Return as soon as `item` is there."""
        async with asyncio.timeout(PATIENCE):
            while item not in self.items:
                self._added.clear()
                await self._added.wait()
