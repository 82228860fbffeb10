"""Who gets which event, in which order, and what a bad or slow subscriber costs the others."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from metacore import logs
from metacore.errors import InvalidInput, PermissionDenied
from metacore.events.bus import Bus, BusEvent
from metacore.metrics import Metrics

ORGANIZATION = uuid.uuid4()
OTHER = uuid.uuid4()


class Collector:
    def __init__(self) -> None:
        self.events: list[BusEvent] = []

    def __call__(self, event: BusEvent) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("shop.orders.created", ["shop.orders.created"]),
        ("shop.orders.*", ["shop.orders.created", "shop.orders.deleted"]),
        ("shop.*", ["shop.orders.created", "shop.orders.deleted", "shop.opened"]),
        ("*", ["shop.orders.created", "shop.orders.deleted", "shop.opened", "shopping.lists.created"]),
        ("shop", []),
        ("orders.*", []),
    ],
)
async def test_patterns_match_names_prefixes_and_everything(pattern: str, matched: list[str]) -> None:
    bus, seen = Bus(), Collector()
    bus.subscribe("kernel", pattern, seen)
    for name in ("shop.orders.created", "shop.orders.deleted", "shop.opened", "shopping.lists.created"):
        await bus.publish("kernel", name, ORGANIZATION, {})
    await bus.drain()
    assert seen.names == matched


@pytest.mark.parametrize("pattern", ["", "*.created", "shop.*.created", "shop*", "shop..x", "a b", ".*", "x" * 256])
async def test_a_pattern_that_can_never_match_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        Bus().subscribe("kernel", pattern, Collector())


@pytest.mark.parametrize("name", ["", "*", "shop.*", "a b", "shop.", "é", "x" * 256, "a\n"])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        await Bus().publish("kernel", name, ORGANIZATION, {})


async def test_the_event_tells_name_sender_organization_and_payload() -> None:
    bus, seen = Bus(), Collector()
    bus.subscribe("kernel", "*", seen)
    assert await bus.publish("shop", "shop.opened", ORGANIZATION, {"id": 7}) == 1
    await bus.drain()
    assert seen.events == [BusEvent("shop.opened", "shop", ORGANIZATION, {"id": 7})]


async def test_publishing_tells_how_many_listen() -> None:
    bus = Bus()
    for pattern in ("a.b", "a.*", "*", "c.*"):
        bus.subscribe("kernel", pattern, Collector())
    assert await bus.publish("kernel", "a.b", ORGANIZATION, {}) == 3
    await bus.drain()


async def test_a_failing_handler_is_logged_and_counted_and_the_rest_run(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(process=False)
    bus, seen = Bus(metrics=metrics), Collector()

    async def fails(event: BusEvent) -> None:
        raise RuntimeError("broken handler")

    bus.subscribe("shop", "*", fails)
    bus.subscribe("kernel", "*", seen)
    await bus.publish("kernel", "a.one", ORGANIZATION, {})
    await bus.publish("kernel", "a.two", ORGANIZATION, {})
    await bus.drain()
    assert seen.names == ["a.one", "a.two"]
    assert [record.getMessage() for record in caplog.records] == ["bus.handler_failed"] * 2
    assert b'metacore_bus_handler_failures_total{addon="shop"} 2.0' in metrics.render()


async def test_a_subscriber_sees_events_in_order_even_when_it_is_slow() -> None:
    bus, seen = Bus(), list[str]()

    async def slow(event: BusEvent) -> None:
        await asyncio.sleep(0)
        seen.append(event.name)

    bus.subscribe("kernel", "*", slow)
    names = [f"a.n{number}" for number in range(50)]
    for name in names:
        await bus.publish("kernel", name, ORGANIZATION, {})
    await bus.drain()
    assert seen == names


async def test_a_stuck_subscriber_holds_up_nobody_and_loses_what_does_not_fit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics(process=False)
    bus, seen, gate = Bus(metrics=metrics, queue_size=3), Collector(), asyncio.Event()
    handled: list[str] = []

    async def stuck(event: BusEvent) -> None:
        await gate.wait()
        handled.append(event.name)

    bus.subscribe("shop", "*", stuck)
    bus.subscribe("kernel", "*", seen, lossless=True)
    for number in range(10):
        await bus.publish("kernel", f"a.n{number}", ORGANIZATION, {})
        await asyncio.sleep(0)
    assert len(seen.events) == 10
    gate.set()
    await bus.drain()
    assert handled == ["a.n0", "a.n1", "a.n2", "a.n3"]
    assert b'metacore_bus_dropped_total{addon="shop"} 6.0' in metrics.render()
    assert [record.getMessage() for record in caplog.records] == ["bus.dropped"]


async def test_a_lossless_subscriber_makes_the_publisher_wait_instead() -> None:
    bus, gate, handled = Bus(queue_size=2), asyncio.Event(), list[str]()

    async def careful(event: BusEvent) -> None:
        await gate.wait()
        handled.append(event.name)

    bus.subscribe("kernel", "*", careful, lossless=True)

    async def publish_all() -> None:
        for number in range(10):
            await bus.publish("kernel", f"a.n{number}", ORGANIZATION, {})

    publisher = asyncio.create_task(publish_all())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not publisher.done()
    gate.set()
    await publisher
    await bus.drain()
    assert handled == [f"a.n{number}" for number in range(10)]


async def test_a_handler_that_never_ends_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    bus, seen = Bus(handler_seconds=0.01), list[str]()

    async def hangs_once(event: BusEvent) -> None:
        if event.name == "a.first":
            await asyncio.Event().wait()
        seen.append(event.name)

    bus.subscribe("kernel", "*", hangs_once)
    await bus.publish("kernel", "a.first", ORGANIZATION, {})
    await bus.publish("kernel", "a.second", ORGANIZATION, {})
    await bus.drain()
    assert seen == ["a.second"]
    assert "bus.handler_failed" in caplog.text


async def test_after_unsubscribing_nothing_arrives_not_even_what_was_waiting() -> None:
    bus, seen = Bus(), Collector()
    unsubscribe = bus.subscribe("kernel", "*", seen)
    await bus.publish("kernel", "a.one", ORGANIZATION, {})
    unsubscribe()
    unsubscribe()
    assert await bus.publish("kernel", "a.two", ORGANIZATION, {}) == 0
    await bus.drain()
    assert seen.events == []


async def test_a_waiting_publisher_goes_on_when_the_subscriber_leaves() -> None:
    bus = Bus(queue_size=1)

    async def hangs(event: BusEvent) -> None:
        await asyncio.Event().wait()

    unsubscribe = bus.subscribe("kernel", "*", hangs, lossless=True)
    await bus.publish("kernel", "a.one", ORGANIZATION, {})
    await asyncio.sleep(0)
    await bus.publish("kernel", "a.two", ORGANIZATION, {})
    publisher = asyncio.create_task(bus.publish("kernel", "a.three", ORGANIZATION, {}))
    await asyncio.sleep(0)
    assert not publisher.done()
    unsubscribe()
    assert await publisher == 0
    await bus.stop(seconds=0.01)


async def test_closing_stops_handlers_that_do_not_end(caplog: pytest.LogCaptureFixture) -> None:
    bus, cancelled = Bus(), list[bool]()

    async def hangs(event: BusEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    bus.subscribe("kernel", "*", hangs)
    await bus.publish("kernel", "a.one", ORGANIZATION, {})
    await asyncio.sleep(0)
    await bus.stop(seconds=0.01)
    assert cancelled == [True]


async def test_a_handler_does_not_carry_the_id_of_the_request_that_woke_it() -> None:
    bus, seen = Bus(), list[str]()
    bus.subscribe("kernel", "*", lambda event: seen.append(logs.request_id.get()))
    token = logs.request_id.set("req-1")
    await bus.publish("kernel", "a.one", ORGANIZATION, {})
    logs.request_id.reset(token)
    await bus.drain()
    assert seen == [""]


class OnlyShop:
    """Lets the addon `shop` emit and hear its own events, in one organization."""

    def may_emit(self, addon_key: str, event: str, organization_id: uuid.UUID) -> bool:
        return event.startswith(f"{addon_key}.")

    def may_subscribe(self, addon_key: str, pattern: str) -> bool:
        return pattern != "*"

    def may_receive(self, addon_key: str, event: BusEvent) -> bool:
        return event.organization_id == ORGANIZATION


async def test_the_gate_decides_what_an_addon_emits() -> None:
    bus, seen = Bus(OnlyShop()), Collector()
    bus.subscribe("kernel", "*", seen)
    with pytest.raises(PermissionDenied, match=r"may not emit 'billing\.paid'"):
        await bus.publish("shop", "billing.paid", ORGANIZATION, {})
    await bus.publish("shop", "shop.opened", ORGANIZATION, {})
    await bus.drain()
    assert seen.names == ["shop.opened"]


async def test_the_gate_decides_what_an_addon_subscribes_to() -> None:
    bus = Bus(OnlyShop())
    with pytest.raises(PermissionDenied):
        bus.subscribe("shop", "*", Collector())
    bus.subscribe("shop", "shop.*", Collector())


async def test_events_of_organizations_without_the_addon_do_not_reach_it() -> None:
    bus, seen = Bus(OnlyShop()), Collector()
    bus.subscribe("shop", "shop.*", seen)
    assert await bus.publish("kernel", "shop.opened", OTHER, {}) == 0
    assert await bus.publish("kernel", "shop.opened", ORGANIZATION, {}) == 1
    await bus.drain()
    assert [event.organization_id for event in seen.events] == [ORGANIZATION]


async def test_the_kernel_is_trusted() -> None:
    bus, seen = Bus(OnlyShop()), Collector()
    bus.subscribe("kernel", "*", seen)
    await bus.publish("kernel", "anything.at.all", OTHER, {})
    await bus.drain()
    assert seen.names == ["anything.at.all"]
