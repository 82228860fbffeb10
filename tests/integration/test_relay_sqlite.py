"""On SQLite the same relay numbers and publishes in one process."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from tests.arrivals import Arrivals

from metacore.db.database import Database
from metacore.events.bus import Bus, BusEvent
from metacore.events.log import SqliteLog
from metacore.events.relay import Relay
from metacore.orm.events import Event


async def write_events(db: Database, *events: tuple[uuid.UUID, str]) -> None:
    for organization_id, row in events:
        async with db.session(organization_id) as session:
            session.add(
                Event(
                    organization_id=organization_id,
                    addon_key="shop",
                    event_type="shop.orders.created",
                    data={"id": row},
                    tags=["a"],
                )
            )


@pytest.fixture
async def seen(sqlite_db: Database) -> AsyncIterator[tuple[Relay, Arrivals[BusEvent]]]:
    arrivals, bus = Arrivals[BusEvent](), Bus()
    bus.subscribe("kernel", "*", arrivals)
    relay = Relay(sqlite_db, bus, batch=4, poll_seconds=3600)
    await write_events(sqlite_db, (uuid.uuid4(), "old"))
    await SqliteLog(sqlite_db).number(10)
    await relay.start()
    yield relay, arrivals
    await relay.stop()
    await bus.stop()


async def test_committed_events_are_numbered_and_published_in_order(
    sqlite_db: Database, seen: tuple[Relay, Arrivals[BusEvent]]
) -> None:
    relay, arrivals = seen
    first, second = uuid.uuid4(), uuid.uuid4()
    await write_events(sqlite_db, *((first if number % 3 else second, str(number)) for number in range(10)))
    relay.wake()
    events = await arrivals.reach(10)
    assert [event.payload["id"] for event in events] == [str(number) for number in range(10)]
    assert [event.position for event in events] == list(range(2, 12))
    for organization in (first, second):
        own = [event.sequence_num for event in events if event.organization_id == organization]
        assert own == list(range(1, len(own) + 1))
    assert events[0].tags == ("a",)


async def test_numbering_goes_on_where_it_was(sqlite_db: Database, seen: tuple[Relay, Arrivals[BusEvent]]) -> None:
    relay, arrivals = seen
    organization = uuid.uuid4()
    for count in (1, 2):
        await write_events(sqlite_db, (organization, str(count)))
        relay.wake()
        await arrivals.reach(count)
    assert [event.sequence_num for event in arrivals.items] == [1, 2]
    assert relay.leading
