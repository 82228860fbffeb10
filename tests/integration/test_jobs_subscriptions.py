"""Subscriptions: events from the log, in order per organization, at least once, parked when nobody can take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.job_world import Handlers, World, busy_manifest, compiled, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs import retry
from metacore.addons.jobs.view import try_again
from metacore.capabilities.access import Access, Decision, Mode
from metacore.db.database import Database
from metacore.orm import cause


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)


@pytest.fixture
async def world(owner_db: Database, database_urls: DatabaseUrls) -> AsyncIterator[World]:
    async with job_world(owner_db, database_urls.kernel) as made:
        yield made


def hearing(*patterns: str, key: str = "tickets", version: str = "1.0.0") -> dict[str, object]:
    """The addon with one subscription per pattern; the handler of the first is `hear0`, and so on."""
    entries = [{"event": pattern, "handler": compiled(f"hear{index}")} for index, pattern in enumerate(patterns)]
    return busy_manifest(key, version, contributions={"subscriptions": entries})


def told(handlers: Handlers, function: str = "hear0") -> list[tuple[str, int]]:
    return [(each.name, each.payload["data"]["n"]) for each in handlers.seen.items if each.handler.function == function]


async def test_events_come_in_order_once_each_and_only_where_the_addon_is(world: World) -> None:
    acme, other, without = [await make_organization(world.owner) for _ in range(3)]
    await world.install(hearing("shop.order.*"), acme, other)
    handlers = Handlers()
    for _ in range(3):
        await world.start(handlers)
    for organization in (acme, without, other):
        await world.emit(organization, "shop.order.created", 25)
        await world.emit(organization, "shop.customer.created")
    await handlers.seen.reach(50)
    await world.until(2, "kind = 'subscription'", "status = 'idle'")
    for organization in (acme, other):
        mine = [each for each in handlers.seen.items if each.organization_id == organization]
        assert [each.payload["data"]["n"] for each in mine] == list(range(25))
        assert [each.payload["sequence_num"] for each in mine] == list(range(1, 26))
        assert len({each.id for each in mine}) == 25
    assert len(handlers.seen.items) == 50


async def test_what_was_committed_while_no_kernel_ran_is_told_by_the_next_one(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("*"), acme)
    await world.emit(acme, "shop.order.created", 3)
    await world.start()
    kernel = world.kernels[0]
    await kernel.handlers.seen.reach(3)
    assert told(kernel.handlers) == [("shop.order.created", number) for number in range(3)]


async def test_what_happened_before_the_installation_is_not_told(world: World) -> None:
    acme = await make_organization(world.owner)
    kernel = await world.start()
    await world.emit(acme, "shop.order.created", 3)
    async with asyncio.timeout(20):
        while kernel.relay.position < 3:  # noqa: ASYNC110 - the relay tells nobody.
            await asyncio.sleep(0.02)
    await world.install(hearing("*"), acme)
    await world.emit(acme, "shop.order.paid")
    await kernel.handlers.seen.reach(1)
    assert told(kernel.handlers) == [("shop.order.paid", 0)]


async def test_a_handler_that_fails_is_tried_again_then_parked_and_the_rest_follows(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(hearing("shop.order.*"), acme, other)
    handlers = Handlers()
    mended = False

    async def choke_on_the_second(invocation: Invocation) -> Result:
        poison = invocation.organization_id == acme and invocation.payload["data"]["n"] == 1
        return Result(not poison or mended, code="indigestible", message="a field is missing")

    handlers.on("hear0", choke_on_the_second)
    await world.start(handlers)
    await world.emit(acme, "shop.order.created", 4)
    await world.emit(other, "shop.order.created", 4)
    (parked,) = await world.until(1, "status = 'failed'")
    await world.until(2, "kind = 'subscription'", "status = 'idle'", "progress = 4")
    assert (parked.kind, parked.name, parked.organization_id) == ("event", "shop.order.created", acme)
    assert parked.last_error == "indigestible: a field is missing"
    assert parked.payload["data"] == {"n": 1}
    mine = [each for each in handlers.seen.items if each.organization_id == acme]
    assert [each.payload["data"]["n"] for each in mine] == [0, *[1] * 8, 2, 3]
    assert {each.id for each in mine if each.payload["data"]["n"] == 1} == {parked.id}
    # The other organization's events did not wait for it.
    assert sum(each.organization_id == other for each in handlers.seen.items) == 4
    mended = True
    await try_again(world.owner, acme, parked.id)
    await world.until(1, "kind = 'event'", "status = 'done'")
    assert handlers.seen.items[-1].id == parked.id
    assert handlers.seen.items[-1].trigger == "subscription"


async def test_each_handler_of_one_event_is_called_and_one_that_succeeded_not_again(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("shop.order.created", "shop.*", "shop.customer.*"), acme)
    handlers = Handlers()

    async def second_time(invocation: Invocation) -> Result:
        return Result(sum(each.id == invocation.id for each in handlers.seen.items) > 1, code="again")

    handlers.on("hear1", second_time)
    await world.start(handlers)
    await world.emit(acme, "shop.order.created", 2)
    await handlers.seen.reach(6)
    await world.until(1, "kind = 'subscription'", "status = 'idle'", "progress = 2")
    assert handlers.names() == ["hear0", "hear1", "hear1", "hear0", "hear1", "hear1"]


async def test_a_new_version_s_subscriptions_go_on_from_where_the_old_one_s_were(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("shop.order.*"), acme)
    kernel = await world.start()
    await world.emit(acme, "shop.order.created", 2)
    await kernel.handlers.seen.reach(2)
    await world.install(hearing("shop.customer.*", version="1.1.0"), acme)
    await world.emit(acme, "shop.order.created")
    await world.emit(acme, "shop.customer.created")
    await kernel.handlers.seen.reach(3)
    assert told(kernel.handlers)[2:] == [("shop.customer.created", 0)]


async def test_nothing_is_told_of_the_time_in_which_an_addon_was_disabled(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("*"), acme)
    kernel = await world.start()
    await world.emit(acme, "shop.order.created")
    await kernel.handlers.seen.reach(1)
    await world.installer.disable("tickets", acme)
    await world.emit(acme, "shop.order.paid")
    async with asyncio.timeout(20):
        while kernel.relay.position < 2:  # noqa: ASYNC110 - the relay tells nobody.
            await asyncio.sleep(0.02)
    await world.installer.enable("tickets", acme)
    await world.emit(acme, "shop.order.sent")
    await kernel.handlers.seen.reach(2)
    assert [name for name, _ in told(kernel.handlers)] == ["shop.order.created", "shop.order.sent"]


@dataclass
class Narrow:
    """A gate that lets `shop.order.*` through."""

    asked: list[Access] = field(default_factory=list)

    def decide(self, access: Access) -> Decision:
        self.asked.append(access)
        granted = access.target.startswith("shop.order.")
        return Decision(granted, granted, Mode.ENFORCE)


async def test_an_addon_hears_what_it_may_hear_and_is_held_up_by_nothing_else(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("*"), acme)
    gate = Narrow()
    kernel = await world.start(gate=gate)
    await world.emit(acme, "shop.customer.created")
    await world.emit(acme, "shop.order.created")
    await kernel.handlers.seen.reach(1)
    assert told(kernel.handlers) == [("shop.order.created", 0)]
    assert [(access.kind, access.target, access.caller) for access in gate.asked] == [
        ("event:subscribe", "shop.customer.created", "subscription:*"),
        ("event:subscribe", "shop.order.created", "subscription:*"),
    ]


async def test_an_addon_that_answers_its_own_events_comes_to_an_end(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("tickets.echo"), acme)
    handlers = Handlers()

    async def echo(invocation: Invocation) -> Result:
        await world.execute(
            "INSERT INTO metacore_events (organization_id, addon_key, event_type, data, depth)"
            " VALUES (:organization, 'tickets', 'tickets.echo', CAST(:data AS jsonb), :depth)",
            organization=acme,
            data=f'{{"n": {invocation.payload["data"]["n"] + 1}}}',
            depth=cause.depth(),
        )
        world.kernels[0].relay.wake()
        return Result(True)

    handlers.on("hear0", echo)
    await world.start(handlers)
    await world.emit(acme, "tickets.echo")
    # Depths 0 to 8 are told; the event of depth 9 is the last one and wakes nobody.
    await world.until(1, "kind = 'subscription'", "status = 'idle'", f"progress = {cause.LONGEST_CHAIN + 2}")
    assert [each.payload["data"]["n"] for each in handlers.seen.items] == list(range(cause.LONGEST_CHAIN + 1))


async def test_a_process_that_takes_over_wakes_what_the_former_one_left(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("*"), acme)
    first = await world.start()
    await world.emit(acme, "shop.order.created")
    await first.handlers.seen.reach(1)
    await world.until(1, "kind = 'subscription'", "status = 'idle'")
    # The first process numbers one more event and dies before it wakes anybody.
    await first.jobs.stop()
    await world.emit(acme, "shop.order.paid")
    async with asyncio.timeout(20):
        while first.relay.position < 2:  # noqa: ASYNC110 - the relay tells nobody.
            await asyncio.sleep(0.02)
    await first.relay.stop()
    second = await world.start()
    await second.handlers.seen.reach(1)
    assert told(second.handlers) == [("shop.order.paid", 0)]


async def test_thousands_of_foreign_events_are_passed_over(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(hearing("shop.order.*"), acme)
    await world.execute(
        "INSERT INTO metacore_events (organization_id, addon_key, event_type, data)"
        " SELECT :organization, 'shop', 'shop.stock.counted', '{}' FROM generate_series(1, 3500)",
        organization=acme,
    )
    await world.emit(acme, "shop.order.created", 120)
    kernel = await world.start()
    kernel.relay.wake()
    await kernel.handlers.seen.reach(120)
    await world.until(1, "kind = 'subscription'", "status = 'idle'", "progress = 3620")
    assert [number for _, number in told(kernel.handlers)] == list(range(120))
