"""Rows that count each other, changed at once from above and from below: nobody locks anybody out, nothing is lost.

The pool is larger than that of most tests: with four connections there is one transaction at a time for a tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import DatabaseUrls
from tests.rolled_shop import NODE, Shop, open_shop

from metacore.db.database import Database
from metacore.dynamic import changing, open_transactions, transactions
from metacore.dynamic import service as services
from metacore.dynamic.hook_points import HookContext
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.shape import shape_of
from metacore.dynamic.transactions import one_transaction, repeated_after_deadlock
from metacore.errors import NotFound, Unavailable
from metacore.manifest.model import Column, ColumnType, ModelDefinition, Relation, Rollup

POOL_SIZE = 12
ROUNDS = 10


@pytest.fixture
async def serving(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls.kernel, pool_size=POOL_SIZE)
    yield database
    await database.close()


@pytest.fixture
async def shop(serving: Database, owner_db: Database) -> Shop:
    return await open_shop(serving, owner_db)


@pytest.fixture
def no_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock is told to the caller."""
    monkeypatch.setattr(transactions, "DEADLOCKS", 0)


async def all_done(*changes: Awaitable[Any]) -> list[Any]:
    """What they give; every failure of any is told."""
    results = await asyncio.gather(*changes, return_exceptions=True)
    failed = [repr(result) for result in results if isinstance(result, BaseException)]
    assert failed == []
    return results


@pytest.mark.usefixtures("no_repetition")
async def test_lines_orders_and_customers_change_at_once(shop: Shop) -> None:
    customer = await shop.make("Customer")
    orders = [await shop.make("Order", customer_id=customer) for _ in range(2)]
    lines = [await shop.line(order, price=1) for order in orders for _ in range(2)]

    async def change_line(line: str) -> None:
        for price in range(ROUNDS):
            await shop.change("Line", line, price=price)

    async def change_order(order: str) -> None:
        for limit in range(ROUNDS):
            await shop.change("Order", order, limit=1000 + limit)

    async def come_and_go() -> None:
        for price in range(ROUNDS):
            order = await shop.make("Order", customer_id=customer)
            line = await shop.line(order, price=price)
            await all_done(
                shop.change("Line", line, price=price + 1),
                shop.change("Line", lines[0], quantity=1 + price),
                shop.service.delete(shop.ada, "Order", UUID(order)),
            )

    await all_done(
        *(change_line(line) for line in lines), *(change_order(order) for order in orders * 2), come_and_go()
    )
    net = [(ROUNDS - 1) * ROUNDS + (ROUNDS - 1), 2 * (ROUNDS - 1)]
    assert [(await shop.row("Order", order, "net"))["net"] for order in orders] == net
    assert await shop.row("Customer", customer, "owed", "orders") == {"owed": sum(net) * 1.5, "orders": 2}


@pytest.mark.usefixtures("no_repetition")
async def test_a_row_that_counts_in_a_parent_and_in_the_one_above_that(serving: Database, owner_db: Database) -> None:
    """`Account` comes before `Bill` by name, and stands above it."""

    def counts(through: str, foreign_key: str, target: str) -> Relation:
        return Relation(
            name=target,
            kind="one_to_many",
            through=through,
            foreign_key=foreign_key,
            rollups=(Rollup(target=target, fn="sum", source="paid"),),
        )

    account = ModelDefinition(
        key="Account",
        table="accounts",
        columns=(Column(name="direct", type=ColumnType.DECIMAL), Column(name="billed", type=ColumnType.DECIMAL)),
        relations=(counts("Payment", "account_id", "direct"), counts("Bill", "account_id", "billed")),
    )
    bill = ModelDefinition(
        key="Bill",
        table="bills",
        columns=(
            Column(name="account_id", type=ColumnType.UUID),
            Column(name="paid", type=ColumnType.DECIMAL),
        ),
        relations=(counts("Payment", "bill_id", "paid"),),
    )
    payment = ModelDefinition(
        key="Payment",
        table="payments",
        columns=(
            Column(name="account_id", type=ColumnType.UUID),
            Column(name="bill_id", type=ColumnType.UUID),
            Column(name="paid", type=ColumnType.DECIMAL),
        ),
    )
    shop = await open_shop(serving, owner_db, account, bill, payment)
    accounts = [await shop.make("Account") for _ in range(2)]
    bills = [await shop.make("Bill", account_id=each) for each in accounts]
    before = len(await shop.told("Account.updated"))
    payments = [
        await shop.make("Payment", account_id=each, bill_id=bills[place], paid=1) for place, each in enumerate(accounts)
    ]
    # What a change comes to in the account by both ways is one change of it.
    assert len(await shop.told("Account.updated")) == before + 2

    async def pay(place: int) -> None:
        for paid in range(ROUNDS):
            await shop.change("Payment", payments[place], paid=paid + place)

    async def move(place: int) -> None:
        for step in range(ROUNDS):
            await shop.change("Bill", bills[place], account_id=accounts[(place + step) % 2])

    await all_done(*(pay(place) for place in (0, 1)), *(move(place) for place in (0, 1)))
    rows = [await shop.service.get(shop.ada, "Bill", UUID(each)) for each in bills]
    for place, each in enumerate(accounts):
        billed = sum(row["paid"] for row in rows if row["account_id"] == each)
        assert await shop.row("Account", each, "direct", "billed") == {"direct": ROUNDS - 1 + place, "billed": billed}


async def test_what_is_not_rolled_up_changes_as_if_nothing_were(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    line = await shop.line(await shop.make("Order"), price=3)
    asked: list[str] = []
    read = PostgresRows.current

    async def current(self: PostgresRows, *arguments: Any) -> Any:
        asked.append("current")
        return await read(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresRows, "current", current)
        patched.setattr(open_transactions.OpenTransactions, "slot", None)
        await all_done(*(shop.change("Line", line, note=str(number)) for number in range(20)))
    assert asked == []


@pytest.mark.usefixtures("no_repetition")
async def test_changes_of_one_row_that_is_rolled_up_take_turns(shop: Shop) -> None:
    customer = await shop.make("Customer")
    order = await shop.make("Order", customer_id=customer)
    line = await shop.line(order, quantity=1, price=2)
    add = {"quantity": 1}
    await all_done(
        *(shop.change("Line", line, note=str(number), price=2) for number in range(20)),
        *(shop.service.update(shop.ada, "Line", UUID(line), {}, increments=add) for _ in range(20)),
        *(shop.change("Order", order, limit=1000 + number) for number in range(20)),
    )
    assert await shop.row("Order", order, "net") == {"net": 42}
    assert await shop.row("Customer", customer, "owed") == {"owed": 63}
    gone = await asyncio.gather(
        *(shop.service.delete(shop.ada, "Line", UUID(line)) for _ in range(10)), return_exceptions=True
    )
    assert [type(each) for each in gone if isinstance(each, BaseException)] == [NotFound] * 9
    assert await shop.row("Order", order, "net", "lines") == {"net": 0, "lines": 0}


async def test_a_row_that_hooks_watch_still_meets_others_in_their_order(shop: Shop) -> None:
    """Code of addons runs before the row is held; a row that is another by then is looked at again."""
    order = await shop.make("Order", customer_id=await shop.make("Customer"))
    line = await shop.line(order, price=1)

    @shop.service.hooks.before_update("Line")
    async def add(context: HookContext, values: dict[str, Any]) -> dict[str, Any]:
        before = context.before or {}
        return {**values, "price": before["price"] + 1}

    await all_done(*(shop.change("Line", line, note="x") for _ in range(3)), shop.change("Order", order, limit=50))
    assert await shop.row("Order", order, "net") == {"net": 4}


async def test_a_transaction_that_a_deadlock_ended_runs_again(serving: Database, owner_db: Database) -> None:
    shop = await open_shop(serving, owner_db, NODE)
    shape = shape_of(shop.desk.registry.model_for("Node", shop.ada.organization_id))
    ids = [UUID(await shop.make("Node")) for _ in range(2)]
    met = asyncio.Barrier(2)
    runs: list[int] = []

    async def hold_both(first: int) -> None:
        async with one_transaction(serving, lock_seconds=60, owner="desk") as connection:
            rows = PostgresRows(serving, within=connection)
            await rows.current(shape, shop.ada, ids[first])
            runs.append(first)
            if len(runs) <= 2:
                await met.wait()
            await rows.current(shape, shop.ada, ids[1 - first])

    await all_done(*(repeated_after_deadlock(lambda first=first: hold_both(first)) for first in (0, 1)))  # type: ignore[misc]
    assert (len(runs), set(runs)) == (3, {0, 1})


async def test_a_row_that_somebody_holds_keeps_no_other_tenant_waiting(
    shop: Shop, owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await shop.make("Order")
    line = await shop.line(order, price=1)
    other = await shop.make("Order", shop.eve)
    for module in (changing, services):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 60)
    async with _held(shop, order):
        waiting = [asyncio.create_task(shop.line(order, price=number)) for number in range(4)]
        waiting += [asyncio.create_task(shop.change("Line", line, price=number)) for number in range(4)]
        await _waiting_for_a_lock(owner_db, (POOL_SIZE // 2 + 1) // 2)
        for price in range(3):
            await shop.make("Line", shop.eve, order_id=other, price=price)
        assert (await shop.service.get(shop.eve, "Order", UUID(other)))["net"] == 3
        assert not any(task.done() for task in waiting)
    await all_done(*waiting)
    for module in (changing, services):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    async with _held(shop, order):
        for change in (shop.line(order, price=9), shop.change("Line", line, price=9)):
            with pytest.raises(Unavailable) as busy:
                await change
            assert busy.value.code == "database_busy"
    assert await shop.row("Order", order, "lines") == {"lines": 5}


async def _waiting_for_a_lock(owner: Database, most: int) -> None:
    statement = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(30):
        while int(await owner.postgres.fetchval(statement)) < most:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _held(shop: Shop, order: str) -> AsyncIterator[None]:
    """Somebody else, in a transaction of their own, holds the order."""
    shape = shape_of(shop.desk.registry.model_for("Order", shop.ada.organization_id))
    holds, let_go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with one_transaction(shop.desk.serving, lock_seconds=0, owner="holder") as connection:
            current = PostgresRows(shop.desk.serving, within=connection).current
            assert await current(shape, shop.ada, UUID(order)) is not None
            holds.set()
            await let_go.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await holds.wait()
        yield
        let_go.set()
