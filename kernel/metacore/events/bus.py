"""The bus of one process: publishers do not know who listens, and a listener that fails or sleeps harms nobody.

Each subscription has a bounded queue and handles its events one after the other, in order. Durable is the log of
events, not the bus: what a full queue did not take can be read from there.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import UUID

from metacore import logs
from metacore.errors import PermissionDenied
from metacore.events.canonical import check_name, check_pattern, patterns_of
from metacore.ids import KERNEL_ADDON_KEY
from metacore.metrics import Metrics

log = logs.get_logger("metacore.bus")

QUEUE_SIZE: Final = 1024
HANDLER_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class BusEvent:
    """One event. `payload` of a canonical one is `{id, before?, after?}`; handlers share it and must not change it.

    `sequence_num`, `position`, `actor_id` and `created_at` (Unix seconds) are set for events that come from the log.
    """

    name: str
    addon_key: str
    organization_id: UUID
    payload: Mapping[str, Any]
    sequence_num: int | None = None
    position: int | None = None
    actor_id: UUID | None = None
    created_at: float | None = None
    tags: tuple[str, ...] = ()


Handler = Callable[[BusEvent], Awaitable[None] | None]


class Gate(Protocol):
    """Decides what addons may do on the bus. Asked for every addon except `kernel`; must not wait."""

    def may_emit(self, addon_key: str, event: str, organization_id: UUID) -> bool: ...

    def may_subscribe(self, addon_key: str, pattern: str) -> bool: ...

    def may_receive(self, addon_key: str, event: BusEvent) -> bool:
        """Whether this event is the addon's business: it is not, where the event's organization lacks the addon."""
        ...


class AllowAll:
    """The gate of a bus without one."""

    def may_emit(self, addon_key: str, event: str, organization_id: UUID) -> bool:
        return True

    def may_subscribe(self, addon_key: str, pattern: str) -> bool:
        return True

    def may_receive(self, addon_key: str, event: BusEvent) -> bool:
        return True


@dataclass(eq=False, slots=True)
class _Subscription:
    addon_key: str
    pattern: str
    handler: Handler
    lossless: bool
    waiting: deque[BusEvent] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: int = 0
    active: bool = True


class Bus:
    """Publish and subscribe within one process. Belongs to one event loop; end it with `stop`."""

    def __init__(
        self,
        gate: Gate | None = None,
        metrics: Metrics | None = None,
        *,
        queue_size: int = QUEUE_SIZE,
        handler_seconds: float = HANDLER_SECONDS,
    ) -> None:
        self._gate: Gate = gate if gate is not None else AllowAll()
        self._metrics = metrics
        self._queue_size = queue_size
        self._handler_seconds = handler_seconds
        self._by_pattern: dict[str, list[_Subscription]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    def subscribe(
        self, addon_key: str, pattern: str, handler: Handler, *, lossless: bool = False
    ) -> Callable[[], None]:
        """Call `handler` with every event that matches `pattern`: a name, `prefix.*` or `*`. Returns what ends it.

        When more than the queue holds are waiting, events are dropped, counted and logged; with `lossless` the
        publisher waits instead, so the handler must be quick. A handler gets 30 seconds.

        Raises:
            InvalidInput: no such pattern can match.
            PermissionDenied: the addon may not subscribe to it.
        """
        check_pattern(pattern)
        if addon_key != KERNEL_ADDON_KEY and not self._gate.may_subscribe(addon_key, pattern):
            raise PermissionDenied(f"addon {addon_key!r} may not subscribe to {pattern!r}", code="forbidden")
        subscription = _Subscription(addon_key, pattern, handler, lossless)
        self._by_pattern.setdefault(pattern, []).append(subscription)

        def unsubscribe() -> None:
            if subscription.active:
                subscription.active = False
                subscription.waiting.clear()
                subscription.room.set()
                self._by_pattern[pattern].remove(subscription)
                if not self._by_pattern[pattern]:
                    del self._by_pattern[pattern]

        return unsubscribe

    async def publish(self, addon_key: str, event: str, organization_id: UUID, payload: Mapping[str, Any]) -> int:
        """Hand an event of `addon_key` to every subscriber; tells how many there are. Does not wait for handlers.

        Raises:
            InvalidInput: not the name of an event.
            PermissionDenied: the addon may not emit it.
        """
        check_name(event)
        if addon_key != KERNEL_ADDON_KEY and not self._gate.may_emit(addon_key, event, organization_id):
            raise PermissionDenied(f"addon {addon_key!r} may not emit {event!r}", code="forbidden")
        return await self.deliver(BusEvent(event, addon_key, organization_id, payload))

    def listeners(self, event: str, organization_id: UUID) -> int:
        """How many subscriptions of this process an event of that name would reach."""
        asked = BusEvent(event, KERNEL_ADDON_KEY, organization_id, {})
        return sum(
            subscription.addon_key == KERNEL_ADDON_KEY or self._gate.may_receive(subscription.addon_key, asked)
            for pattern in patterns_of(event)
            for subscription in self._by_pattern.get(pattern, ())
        )

    async def deliver(self, event: BusEvent) -> int:
        """Hand on an event that was decided about already: the relay's way in."""
        reached = 0
        for pattern in patterns_of(event.name):
            for subscription in tuple(self._by_pattern.get(pattern, ())):
                trusted = subscription.addon_key == KERNEL_ADDON_KEY
                if trusted or self._gate.may_receive(subscription.addon_key, event):
                    reached += await self._enqueue(subscription, event)
        return reached

    async def drain(self) -> None:
        """Wait until every event handed over so far has been handled."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def stop(self, seconds: float = 5.0) -> None:
        """Let handlers finish for a while, then stop them."""
        try:
            async with asyncio.timeout(seconds):
                await self.drain()
        except TimeoutError:
            workers = list(self._workers)
            log.warning("bus.stopped_early", handlers=len(workers))
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _enqueue(self, subscription: _Subscription, event: BusEvent) -> int:
        while subscription.active and len(subscription.waiting) >= self._queue_size:
            if not subscription.lossless:
                self._dropped(subscription, event)
                return 0
            subscription.room.clear()
            await subscription.room.wait()
        if not subscription.active:
            return 0
        subscription.waiting.append(event)
        if subscription.worker is None:
            # An empty context: a worker outlives the request that woke it and must not carry that request's id.
            worker = asyncio.get_running_loop().create_task(
                self._work(subscription), name=f"bus:{subscription.pattern}", context=contextvars.Context()
            )
            subscription.worker = worker
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return 1

    async def _work(self, subscription: _Subscription) -> None:
        # A worker lives while there is something to do, so an idle subscription costs no task.
        try:
            while subscription.waiting:
                event = subscription.waiting.popleft()
                subscription.room.set()
                await self._handle(subscription, event)
        finally:
            subscription.worker = None

    async def _handle(self, subscription: _Subscription, event: BusEvent) -> None:
        try:
            result = subscription.handler(event)
            if inspect.isawaitable(result):
                async with asyncio.timeout(self._handler_seconds):
                    await result
        except Exception as error:
            if self._metrics is not None:
                self._metrics.bus_failures.labels(subscription.addon_key).inc()
            log.error(
                "bus.handler_failed",
                addon=subscription.addon_key,
                pattern=subscription.pattern,
                event_name=event.name,
                organization=str(event.organization_id),
                exc_info=error,
            )

    def _dropped(self, subscription: _Subscription, event: BusEvent) -> None:
        subscription.dropped += 1
        if self._metrics is not None:
            self._metrics.bus_dropped.labels(subscription.addon_key).inc()
        # The first and then every thousandth: a subscriber that sleeps must not fill the log too.
        if subscription.dropped % 1000 == 1:
            log.warning(
                "bus.dropped",
                addon=subscription.addon_key,
                pattern=subscription.pattern,
                event_name=event.name,
                dropped=subscription.dropped,
            )
