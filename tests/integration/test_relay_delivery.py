"""Committed events reach the bus of every process: once each, in one order, however the news travels."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls

from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.events.bus import Bus, BusEvent
from metacore.events.log import PostgresReader
from metacore.events.relay import Relay
from metacore.metrics import Metrics

FAR = 3600.0
"""A poll so rare that only notifications can have brought the news."""

INSERT = """
WITH scope AS MATERIALIZED (SELECT set_config('app.current_org', $1::text, true)::uuid AS org)
INSERT INTO metacore_events (organization_id, addon_key, event_type, data)
SELECT scope.org, 'shop', $2, jsonb_build_object('id', $3::text) FROM scope
"""


async def write_event(db: Database, organization_id: uuid.UUID, name: str, row: str) -> None:
    await db.postgres.execute(INSERT, str(organization_id), name, row)


@dataclass
class Process:
    """One kernel process, as far as events go."""

    relay: Relay
    bus: Bus
    seen: Arrivals[BusEvent]
    metrics: Metrics

    def rows(self) -> list[str]:
        return [event.payload["id"] for event in self.seen.items]


Starter = Callable[..., Awaitable[Process]]


@asynccontextmanager
async def processes(urls: DatabaseUrls) -> AsyncIterator[Starter]:
    async with AsyncExitStack() as stack:

        async def start(*, listening: bool = True, poll_seconds: float = FAR, batch: int = 500) -> Process:
            db = await Database.connect(urls.kernel, pool_size=2)
            stack.push_async_callback(db.close)
            listener = Listener(db.direct_url) if listening else None
            seen, bus, metrics = Arrivals[BusEvent](), Bus(), Metrics(process=False)
            bus.subscribe("kernel", "*", seen)
            relay = Relay(db, bus, listener, metrics=metrics, batch=batch, poll_seconds=poll_seconds)
            if listener is not None:
                await listener.start()
                stack.push_async_callback(listener.stop)
            await relay.start()
            stack.push_async_callback(bus.stop)
            stack.push_async_callback(relay.stop)
            return Process(relay, bus, seen, metrics)

        yield start


async def lead(process: Process, db: Database) -> None:
    """Wait until `process` leads, which shows itself by the first event that it numbers."""
    await write_event(db, uuid.uuid4(), "shop.warm.up", "warm-up")
    process.relay.wake()
    await process.seen.reach(1)
    assert process.relay.leading


async def test_an_event_tells_who_what_and_where(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    organization = uuid.uuid4()
    async with processes(database_urls) as start:
        process = await start()
        await write_event(kernel_db, organization, "shop.orders.created", "7")
        process.relay.wake()
        (event,) = await process.seen.reach(1)
    assert (event.name, event.addon_key, event.organization_id) == ("shop.orders.created", "shop", organization)
    assert event.payload == {"id": "7"}
    assert (event.sequence_num, event.position) == (1, 1)
    assert event.created_at is not None


async def test_events_arrive_in_order_and_numbers_have_no_gaps_per_organization(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    async with processes(database_urls) as start:
        process = await start(batch=3)
        for number in range(10):
            await write_event(kernel_db, first if number % 3 else second, "shop.orders.created", str(number))
        process.relay.wake()
        await process.seen.reach(10)
    assert process.rows() == [str(number) for number in range(10)]
    assert [event.position for event in process.seen.items] == list(range(1, 11))
    for organization in (first, second):
        own = [event.sequence_num for event in process.seen.items if event.organization_id == organization]
        assert own == list(range(1, len(own) + 1))


async def test_every_process_publishes_each_event_once_in_the_same_order(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    organization = uuid.uuid4()
    async with processes(database_urls) as start:
        leader = await start()
        await lead(leader, kernel_db)
        followers = [await start(), await start()]
        for number in range(20):
            await write_event(kernel_db, organization, "shop.orders.created", str(number))
            # Whoever commits wakes its own relay only.
            followers[number % 2].relay.wake()
        for process in followers:
            await process.seen.reach(20)
        await leader.seen.reach(21)
        assert [process.relay.leading for process in (leader, *followers)] == [True, False, False]
    expected = [str(number) for number in range(20)]
    assert leader.rows()[1:] == followers[0].rows() == followers[1].rows() == expected


async def test_many_commits_of_a_follower_become_one_notification(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    payloads = Arrivals[str]()
    watch = await asyncpg.connect(database_urls.kernel)
    await watch.add_listener(channels.EVENTS, lambda *heard: payloads(str(heard[3])))
    try:
        async with processes(database_urls) as start:
            leader = await start()
            await lead(leader, kernel_db)
            follower = await start()
            # The leader's "1" and the question that every relay asks when it starts.
            await payloads.reach(2)
            payloads.items.clear()
            for number in range(50):
                await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", str(number))
            for _ in range(50):
                follower.relay.wake()
            await follower.seen.reach(50)
            await payloads.reach_item("")
            await follower.relay.stop()
            await kernel_db.postgres.execute("SELECT pg_notify($1, 'end')", channels.EVENTS)
            await payloads.reach_item("end")
    finally:
        await watch.close()
    assert payloads.items.count("") == 1


async def test_a_rolled_back_change_has_no_event(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    organization = uuid.uuid4()
    async with processes(database_urls) as start:
        process = await start()
        async with kernel_db.postgres.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(INSERT, str(organization), "shop.orders.created", "undone")
            await transaction.rollback()
        await write_event(kernel_db, organization, "shop.orders.created", "done")
        process.relay.wake()
        await process.seen.reach(1)
    assert process.rows() == ["done"]
    assert process.seen.items[0].sequence_num == 1


async def test_a_change_that_commits_late_comes_behind_what_was_published(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    organization = uuid.uuid4()
    async with processes(database_urls) as start:
        process = await start()
        async with kernel_db.postgres.acquire() as connection:
            async with connection.transaction():
                await connection.execute(INSERT, str(organization), "shop.orders.created", "late")
                await write_event(kernel_db, organization, "shop.orders.created", "early")
                process.relay.wake()
                await process.seen.reach(1)
            process.relay.wake()
            await process.seen.reach(2)
    assert process.rows() == ["early", "late"]


async def test_without_any_notification_the_poll_finds_events(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    async with processes(database_urls) as start:
        leader = await start(listening=False, poll_seconds=0.02)
        follower = await start(listening=False, poll_seconds=0.02)
        await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", "7")
        await leader.seen.reach(1)
        await follower.seen.reach(1)
    assert leader.rows() == follower.rows() == ["7"]


async def test_what_was_numbered_before_the_start_is_not_published_again(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    for number in range(5):
        await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", f"old{number}")
    await kernel_db.postgres.fetch("SELECT * FROM metacore_number_events(100)")
    async with processes(database_urls) as start:
        process = await start()
        assert process.relay.position == 5
        await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", "new")
        process.relay.wake()
        await process.seen.reach(1)
    assert process.rows() == ["new"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9, 31])
async def test_the_last_position_is_found_without_seeing_the_table(
    database_urls: DatabaseUrls, owner_db: Database, kernel_db: Database, count: int
) -> None:
    for number in range(count):
        await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", str(number))
    await kernel_db.postgres.fetch("SELECT * FROM metacore_number_events(1000)")
    assert await PostgresReader(kernel_db).last_position() == count
    # Old events may be cleared away; the position stays.
    await owner_db.postgres.execute("DELETE FROM metacore_events WHERE position < $1", count)
    assert await PostgresReader(kernel_db).last_position() == count


async def test_a_leader_that_loses_its_connection_hands_over_and_nothing_is_lost_or_doubled(
    database_urls: DatabaseUrls, kernel_db: Database
) -> None:
    async with processes(database_urls) as start:
        first = await start(poll_seconds=0.05)
        await lead(first, kernel_db)
        second = await start(poll_seconds=0.05)
        admin = await asyncpg.connect(database_urls.superuser)
        try:
            for number in range(30):
                if number % 10 == 5:
                    await admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND application_name = 'metacore-relay'"
                    )
                await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", str(number))
                first.relay.wake()
            await first.seen.reach(31)
            await second.seen.reach(30)
        finally:
            await admin.close()
    expected = [str(number) for number in range(30)]
    assert first.rows()[1:] == second.rows() == expected


async def test_when_the_leader_stops_another_process_leads(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    async with processes(database_urls) as start:
        first = await start()
        await lead(first, kernel_db)
        second = await start(poll_seconds=0.02)
        await first.relay.stop()
        assert b"metacore_relay_leader 0.0" in first.metrics.render()
        await write_event(kernel_db, uuid.uuid4(), "shop.orders.created", "7")
        await second.seen.reach(1)
        assert second.relay.leading
        assert b"metacore_relay_leader 1.0" in second.metrics.render()


async def test_a_database_that_comes_back_is_read_on_from_where_it_was(
    database_urls: DatabaseUrls, kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes(database_urls) as start:
        process = await start(poll_seconds=0.02)
        await lead(process, kernel_db)
        admin = await asyncpg.connect(database_urls.superuser)
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await admin.close()
        writer = await Database.connect(database_urls.kernel, pool_size=1)
        await write_event(writer, uuid.uuid4(), "shop.orders.created", "7")
        await writer.close()
        await process.seen.reach(2)
    assert process.rows() == ["warm-up", "7"]


async def test_published_events_and_their_lag_are_counted(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    async with processes(database_urls) as start:
        process = await start()
        await lead(process, kernel_db)
        await process.bus.drain()
        text = process.metrics.render()
    assert b"metacore_relay_events_total 1.0" in text
    assert b"metacore_relay_lag_seconds_count 1.0" in text
