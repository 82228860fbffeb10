"""Connections that the hot paths keep: used again, never lost, never kept from others for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.conftest import DatabaseUrls

from metacore.db.database import Database
from metacore.dynamic.connections import LEFT_TO_OTHERS, HotConnections

MY_PID = "SELECT pg_backend_pid()"
POOL_SIZE = 4


@pytest.fixture
async def database(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls.kernel, pool_size=POOL_SIZE)
    yield database
    # Politely and at once: nothing may be held back when the database closes.
    async with asyncio.timeout(3):
        await database.postgres.close()
    await database.close()


async def pid(connections: HotConnections) -> int:
    return int((await connections.fetch(MY_PID, ()))[0][0])


async def all_returned(database: Database) -> None:
    """Comes back once every connection can be had from the pool."""
    taken = [await database.postgres.acquire() for _ in range(POOL_SIZE)]
    for connection in taken:
        await database.postgres.release(connection)


async def test_statements_that_follow_each_other_share_a_connection(database: Database) -> None:
    connections = HotConnections(database)
    assert len({await pid(connections) for _ in range(10)}) == 1


async def test_idle_connections_go_back_to_the_pool(database: Database) -> None:
    connections = HotConnections(database)
    await asyncio.gather(*(pid(connections) for _ in range(10)))
    async with asyncio.timeout(5):
        await all_returned(database)


async def test_a_connection_that_is_busy_stays_while_surplus_ones_go(database: Database) -> None:
    connections = HotConnections(database, idle_seconds=0)
    await asyncio.gather(*(connections.fetch("SELECT pg_sleep(0.01)", ()) for _ in range(2)))
    busy = True

    async def keep_busy() -> None:
        while busy:
            await pid(connections)

    task = asyncio.create_task(keep_busy())
    async with asyncio.timeout(5):
        others = [await database.postgres.acquire() for _ in range(POOL_SIZE - 1)]
    busy = False
    await task
    for connection in others:
        await database.postgres.release(connection)


async def test_others_find_connections_however_busy_the_hot_paths_are(
    database: Database, database_urls: DatabaseUrls
) -> None:
    connections = HotConnections(database)
    blocker = await asyncpg.connect(database_urls.owner)
    try:
        await blocker.execute("SELECT pg_advisory_lock(7)")
        waiting = [asyncio.create_task(connections.fetch("SELECT pg_advisory_xact_lock(7)", ())) for _ in range(20)]
        async with asyncio.timeout(5):
            taken = [await database.postgres.acquire() for _ in range(LEFT_TO_OTHERS)]
            for connection in taken:
                assert await connection.fetchval("SELECT 1") == 1
                await database.postgres.release(connection)
    finally:
        await blocker.close()
    await asyncio.gather(*waiting)


async def test_everybody_who_waits_gets_a_turn(database: Database) -> None:
    connections = HotConnections(database)
    found = await asyncio.gather(*(connections.fetch("SELECT $1::int", (number,)) for number in range(200)))
    assert [rows[0][0] for rows in found] == list(range(200))


async def test_callers_that_leave_lose_no_connection(database: Database) -> None:
    connections = HotConnections(database)
    for round_number in range(20):
        tasks = [asyncio.create_task(connections.fetch("SELECT pg_sleep(0.001)", ())) for _ in range(8)]
        for _ in range(round_number % 5):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        assert await pid(connections) > 0
        await all_returned(database)


async def test_a_refused_statement_leaves_its_connection_usable(database: Database) -> None:
    connections = HotConnections(database)
    first = await pid(connections)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connections.fetch("SELECT 1 / $1::int", (0,))
    assert await pid(connections) == first


async def test_a_killed_connection_is_replaced(database: Database, database_urls: DatabaseUrls) -> None:
    connections = HotConnections(database, idle_seconds=0.3)
    killed = await pid(connections)
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", killed)
    finally:
        await admin.close()
    for _ in range(3):
        try:
            assert await pid(connections) != killed
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # The end of the connection was not heard yet; whoever used it was told.
            continue
        break
    else:
        pytest.fail("the dead connection is still in use")


async def test_a_database_that_was_opened_again_is_used_again(database: Database) -> None:
    connections = HotConnections(database)
    await pid(connections)
    await database.close()
    await database.open()
    assert await pid(connections) > 0


async def test_a_tiny_pool_is_left_alone(database_urls: DatabaseUrls) -> None:
    tiny = await Database.connect(database_urls.kernel, pool_size=LEFT_TO_OTHERS)
    try:
        connections = HotConnections(tiny, idle_seconds=60)
        await pid(connections)
        async with asyncio.timeout(5):
            taken = [await tiny.postgres.acquire() for _ in range(LEFT_TO_OTHERS)]
        for connection in taken:
            await tiny.postgres.release(connection)
    finally:
        await tiny.close()
