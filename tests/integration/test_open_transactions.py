"""Transactions within transactions: they wait for no one who waits for them, and no addon holds all there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.applications import SECRET
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.guests.script import host, script

from metacore.app_config import AppConfig
from metacore.db.database import LEAST_POOL_SIZE, MOST_DEEPER, Database
from metacore.dynamic import open_transactions, transactions
from metacore.dynamic.transactions import one_transaction
from metacore.errors import Misconfigured, Refused, Unavailable

POOL_SIZE = 4
AT_ONCE = 2


@pytest.fixture
async def database(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls.kernel, pool_size=POOL_SIZE)
    yield database
    await database.close()


async def backend(connection: Any) -> int:
    return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_all_that_hold_a_transaction_get_the_ones_within_it(database: Database) -> None:
    assert database.transactions == AT_ONCE
    everybody_holds = asyncio.Barrier(AT_ONCE)

    async def nested(owner: str, depth: int) -> list[int]:
        async with one_transaction(database, lock_seconds=0, owner=owner) as connection:
            if depth == 1:
                await everybody_holds.wait()
            pids = [await backend(connection)]
            return pids + (await nested(owner, depth + 1) if depth < open_transactions.DEEPEST else [])

    async with asyncio.timeout(transactions.HOLD_SECONDS - 1):
        found = await asyncio.gather(*(nested(f"addon_{number}", 1) for number in range(AT_ONCE)))
    assert [len(set(pids)) for pids in found] == [open_transactions.DEEPEST] * AT_ONCE
    # Nothing is kept: the same can be had once more.
    async with asyncio.timeout(transactions.HOLD_SECONDS - 1):
        await asyncio.gather(*(nested("addon", 1) for _ in range(1)), nested("other", 1))


async def test_single_statements_get_on_while_transactions_hold_all_they_may(database: Database) -> None:
    async with asyncio.timeout(transactions.HOLD_SECONDS - 1):
        async with (
            one_transaction(database, lock_seconds=0, owner="a"),
            one_transaction(database, lock_seconds=0, owner="a") as inner,
            one_transaction(database, lock_seconds=0, owner="a"),
        ):
            assert database.postgres.get_idle_size() + POOL_SIZE - database.postgres.get_size() == POOL_SIZE - 1
            assert await database.postgres.fetchval("SELECT 1") == 1
            assert await inner.fetchval("SELECT 1") == 1


async def test_more_within_each_other_than_there_is_room_for_is_refused(database: Database) -> None:
    async def deeper(depth: int) -> None:
        async with one_transaction(database, lock_seconds=0):
            if depth < open_transactions.DEEPEST + 1:
                await deeper(depth + 1)

    with pytest.raises(Refused, match=f"more than {MOST_DEEPER + 2} transactions") as refused:
        await deeper(1)
    assert refused.value.code == "too_deep"


async def test_one_addon_does_not_hold_all_of_them(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "HOLD_SECONDS", 0.05)
    let_go, holds = asyncio.Event(), asyncio.Event()

    async def hold(owner: str) -> None:
        async with one_transaction(database, lock_seconds=0, owner=owner):
            holds.set()
            await let_go.wait()

    slow = asyncio.create_task(hold("slow"))
    await holds.wait()
    with pytest.raises(Unavailable) as busy:
        await hold("slow")
    assert busy.value.code == "database_busy"
    async with one_transaction(database, lock_seconds=0, owner="other") as connection:
        assert await connection.fetchval("SELECT 1") == 1
    let_go.set()
    await slow
    await hold("slow")


async def test_what_runs_on_after_a_transaction_is_in_none(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "HOLD_SECONDS", 0.05)
    ended = asyncio.Event()

    async def later() -> int:
        await ended.wait()
        async with one_transaction(database, lock_seconds=0, owner="slow"):
            return database.postgres.get_size() - database.postgres.get_idle_size()

    async with one_transaction(database, lock_seconds=0, owner="slow"):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    ended.set()
    # It took one of the first, and no connection that is kept for code within another transaction.
    assert await task == 1


def moving_manifest() -> dict[str, Any]:
    manifest = workshop.workshop_manifest()
    order = manifest["models"][0]
    order["columns"].append({"name": "script", "type": "text"})
    order |= {
        "stage_field": "status",
        "stages": ["open", "paid"],
        "transitions": [{"from": "open", "to": "paid"}],
        "on_transition": [{"to": "paid", "do": {"type": "wasm", "function": "run"}, "required": True}],
    }
    return manifest


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        yield opened


async def test_moves_whose_code_changes_rows_do_not_stop_each_other(plane: Plane) -> None:
    await move_all(plane)


async def test_the_least_pool_is_enough_for_them(database_urls: DatabaseUrls) -> None:
    tiny = Database(database_urls.kernel, pool_size=LEAST_POOL_SIZE)
    try:
        async with control_plane(database_urls, database=tiny) as plane:
            await move_all(plane)
    finally:
        await tiny.close()


async def test_an_app_with_a_smaller_one_is_refused(database_urls: DatabaseUrls) -> None:
    small = Database(database_urls.kernel, pool_size=LEAST_POOL_SIZE - 1)
    with pytest.raises(Misconfigured, match=r"pool_size=1 of AppConfig\.database is too small: at least 2 connections"):
        AppConfig(database=small, jwt_secret=SECRET)
    await small.close()


async def move_all(plane: Plane) -> None:
    """Twice as many moves at once as there may be transactions, each with code that reads and changes rows."""
    await workshop.install(plane, plane.ada, manifest=moving_manifest())
    others = await workshop.order(plane, plane.ada, count=0)
    steps = (
        host("data_batch", [{"op": "create", "model": "Line", "data": {}} for _ in range(2)]),
        host("data_mutate", {"op": "update", "model": "Order", "id": others, "inc": {"count": 1}}),
        host("data_query", {"model": "Line", "limit": 1}),
    )
    most = plane.app.database.transactions
    orders = [await workshop.order(plane, plane.ada, **script(*steps)) for _ in range(2 * most)]

    async def move(order: str) -> int:
        url = f"/api/dynamic/orders/{order}"
        moved = await plane.client.patch(url, json={"status": "paid"}, headers=plane.ada, timeout=60)
        return moved.status_code

    assert await asyncio.gather(*map(move, orders)) == [200] * len(orders)
    lines = await plane.client.get("/api/dynamic/order_lines?per_page=100", headers=plane.ada)
    assert len(lines.json()["data"]) == 2 * len(orders)
    counted = await plane.client.get(f"/api/dynamic/orders/{others}", headers=plane.ada)
    assert counted.json()["data"]["count"] == len(orders)
