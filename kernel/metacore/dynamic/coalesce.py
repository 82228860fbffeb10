"""Many requests, one statement: what waits for the same lane goes out together (docs/performance.md, coalescing).

A lane is everything that one statement could serve. An idle lane sends at once, in the caller's own task, so a lone
request pays next to nothing. What arrives while a statement is on its way waits for the next one; a batch is closed
before it is sent, so a read never sees less than what was committed when it arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Send = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
"""Serves items with one statement; gives one result or one error for each, in order. What it raises is everybody's."""

MAX_ITEMS = 128
MAX_WEIGHT = 1 << 20
"""Bytes of input that one statement carries; a heavier single item still goes out, alone."""

SLOW_SECONDS = 0.02
"""After that long a statement no longer holds its lane alone."""

MAX_IN_FLIGHT = 2


@dataclass(slots=True)
class _Waiter(Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]


class _Lane(Generic[Item, Result]):
    """Made for every lone request, too, so it is as plain as can be. `send` is there once somebody waits."""

    __slots__ = ("in_flight", "overlap", "send", "waiting")

    def __init__(self) -> None:
        self.send: Send[Item, Result] | None = None
        self.waiting: list[_Waiter[Item, Result]] = []
        self.in_flight = 1
        self.overlap: asyncio.TimerHandle | None = None


class Coalescer:
    """Lanes by key. One belongs to one event loop."""

    def __init__(
        self, *, max_items: int = MAX_ITEMS, max_weight: int = MAX_WEIGHT, slow_seconds: float = SLOW_SECONDS
    ) -> None:
        self._max_items = max_items
        self._max_weight = max_weight
        self._slow_seconds = slow_seconds
        self.lanes: dict[Hashable, _Lane[Any, Any]] = {}
        self._batches: set[asyncio.Task[None]] = set()

    async def submit(self, key: Hashable, item: Item, send: Send[Item, Result], *, weight: int = 0) -> Result:
        """The result for `item`, from a statement that serves the whole lane `key`.

        `send` must mean the same for everybody who uses the key; `weight` is the item's size in bytes. Cancelling the
        caller never cancels a statement that serves others.
        """
        lane: _Lane[Item, Result] | None = self.lanes.get(key)
        if lane is not None:
            return await self._join(key, lane, item, send, weight)
        lane = self.lanes[key] = _Lane()
        try:
            result = (await send((item,)))[0]
        finally:
            self._sent(key, lane)
        if isinstance(result, Exception):
            raise result
        return result

    async def share(self, key: Hashable, send: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `send`, run once for all who ask for `key` while none of theirs has been sent."""
        lane: _Lane[None, Result] | None = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = _Lane()
            try:
                return await send()
            finally:
                self._sent(key, lane)

        async def once(items: Sequence[None]) -> Sequence[Result | Exception]:
            return [await send()] * len(items)

        return await self._join(key, lane, None, once, 0)

    async def _join(
        self, key: Hashable, lane: _Lane[Item, Result], item: Item, send: Send[Item, Result], weight: int
    ) -> Result:
        loop = asyncio.get_running_loop()
        waiter: _Waiter[Item, Result] = _Waiter(item, weight, loop.create_future())
        lane.send = send
        lane.waiting.append(waiter)
        if lane.in_flight < MAX_IN_FLIGHT and lane.overlap is None:
            lane.overlap = loop.call_later(self._slow_seconds, self._overlap, key, lane)
        return await waiter.future

    def _overlap(self, key: Hashable, lane: _Lane[Any, Any]) -> None:
        lane.overlap = None
        if lane.waiting and lane.in_flight < MAX_IN_FLIGHT:
            self._start(key, lane)

    def _sent(self, key: Hashable, lane: _Lane[Any, Any]) -> None:
        """A statement of the lane came back: send who waits, or close the lane."""
        lane.in_flight -= 1
        if lane.waiting:
            self._start(key, lane)
        elif lane.in_flight == 0:
            del self.lanes[key]
            if lane.overlap is not None:
                lane.overlap.cancel()
                lane.overlap = None

    def _start(self, key: Hashable, lane: _Lane[Any, Any]) -> None:
        if lane.overlap is not None:
            lane.overlap.cancel()
            lane.overlap = None
        batch = self._take(lane)
        lane.in_flight += 1
        task = asyncio.get_running_loop().create_task(self._run(key, lane, batch))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)
        if lane.waiting and lane.in_flight < MAX_IN_FLIGHT:
            lane.overlap = asyncio.get_running_loop().call_later(self._slow_seconds, self._overlap, key, lane)

    def _take(self, lane: _Lane[Any, Any]) -> list[_Waiter[Any, Any]]:
        """The next batch, within the bounds. Who went away in the meantime is left out."""
        waiting = [waiter for waiter in lane.waiting if not waiter.future.done()]
        count = weight = 0
        for waiter in waiting:
            if count == self._max_items or (count and weight + waiter.weight > self._max_weight):
                break
            count += 1
            weight += waiter.weight
        lane.waiting = waiting[count:]
        return waiting[:count]

    async def _run(self, key: Hashable, lane: _Lane[Any, Any], batch: list[_Waiter[Any, Any]]) -> None:
        results: Sequence[Any] = ()
        try:
            if batch and lane.send is not None:
                results = await lane.send([waiter.item for waiter in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a lane gave {len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            # The loop is being torn down; who still waits must not wait forever.
            for waiter in batch:
                waiter.future.cancel()
            raise
        except Exception as error:
            results = [error] * len(batch)
        finally:
            self._sent(key, lane)
        for waiter, result in zip(batch, results, strict=True):
            if waiter.future.done():
                continue
            if isinstance(result, Exception):
                waiter.future.set_exception(result)
            else:
                waiter.future.set_result(result)
