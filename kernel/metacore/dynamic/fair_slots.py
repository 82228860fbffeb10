"""A bounded number of things at once, of which no single owner can hold all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from metacore.errors import TooManyRequests


class FairSlots:
    """`total` slots, `each` of them at most for one owner. Whoever finds none within `wait_seconds` is refused with
    `code` and told to come back after `retry_after` seconds; `what` names what is held, in the plural."""

    def __init__(
        self, total: int, each: int, *, wait_seconds: float, what: str, code: str, retry_after: float = 10.0
    ) -> None:
        self._total = asyncio.Semaphore(total)
        self._each = each
        # Of an owner who neither holds nor waits for any, nothing is kept.
        self._owners: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        self._wait_seconds = wait_seconds
        self._what = what
        self._code = code
        self._retry_after = retry_after

    @asynccontextmanager
    async def of(self, owner: Hashable, *, each: int | None = None) -> AsyncIterator[Callable[[], None]]:
        """Hold a slot, until the block ends or what it gets is called, in the thread of the loop. `each` are those that
        this owner may have, if not as many as everybody.

        Raises:
            TooManyRequests: none was free in time.
        """
        own = self._owners.get(owner)
        if own is None:
            own = self._owners[owner] = asyncio.Semaphore(each or self._each)
        held: list[asyncio.Semaphore] = []

        def give_back() -> None:
            while held:
                held.pop().release()

        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    # Its own first: an owner that waits for itself keeps nobody else from what is free.
                    for semaphore in (own, self._total):
                        await semaphore.acquire()
                        held.append(semaphore)
            except TimeoutError:
                raise TooManyRequests(
                    f"too many {self._what} are under way; try again later",
                    retry_after=self._retry_after,
                    code=self._code,
                ) from None
            yield give_back
        finally:
            give_back()
