"""How many actions hold a database transaction open at once, and that no addon takes them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from metacore.errors import TooManyRequests

WAIT_SECONDS: Final = 10.0


class TransactionSlots:
    """`total` slots. Each holds a connection, so there must be more connections than that: whoever has one may need
    another for what happens outside of it."""

    def __init__(self, total: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_addon = max(1, total - 1)
        self._addons: dict[str, asyncio.Semaphore] = {}
        self._wait_seconds = wait_seconds

    @asynccontextmanager
    async def of(self, addon_key: str) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            TooManyRequests: none was free in time.
        """
        own = self._addons.setdefault(addon_key, asyncio.Semaphore(self._per_addon))
        held: list[asyncio.Semaphore] = []
        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    for semaphore in (own, self._total):
                        await semaphore.acquire()
                        held.append(semaphore)
            except TimeoutError:
                raise TooManyRequests(
                    f"addon {addon_key!r} has too many actions in transactions", retry_after=1.0, code="actions_busy"
                ) from None
            yield
        finally:
            for semaphore in held:
                semaphore.release()
