"""What children come to, in the row above them: after every change of a child, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from tests.factories import make_organization, principal
from tests.live_models import Desk

from metacore.db.database import Database
from metacore.dynamic.hook_points import HookContext
from metacore.dynamic.service import DynamicService
from metacore.errors import NotFound, Refused
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType, Constraint, Formula, ModelDefinition, Relation, Rollup

CUSTOMER = ModelDefinition(
    key="Customer",
    table="customers",
    columns=(
        Column(name="name", type=ColumnType.STRING, size=40),
        Column(name="owed", type=ColumnType.DECIMAL),
        Column(name="orders", type=ColumnType.INT),
    ),
    relations=(
        Relation(
            name="orders",
            kind="one_to_many",
            through="desk.Order",
            foreign_key="customer_id",
            rollups=(Rollup(target="owed", fn="sum", source="total"), Rollup(target="orders", fn="count")),
        ),
    ),
)
ORDER = ModelDefinition(
    key="Order",
    table="orders",
    columns=(
        Column(name="customer_id", type=ColumnType.UUID),
        Column(name="limit", type=ColumnType.INT, default="1000"),
        Column(name="net", type=ColumnType.DECIMAL, constraints=(Constraint(expr="net <= limit", error_key="limit"),)),
        Column(name="total", type=ColumnType.DECIMAL),
        Column(name="lines", type=ColumnType.INT),
        Column(name="dearest", type=ColumnType.DECIMAL),
        Column(name="mean", type=ColumnType.DECIMAL),
        Column(name="whole_mean", type=ColumnType.INT),
        Column(name="last_day", type=ColumnType.DATE),
        Column(name="gifts", type=ColumnType.INT, required=True, default="0"),
    ),
    formulas=(Formula(target="total", expr="net * 1.5"),),
    relations=(
        Relation(
            name="lines",
            kind="one_to_many",
            through="Line",
            foreign_key="order_id",
            rollups=(
                Rollup(target="net", fn="sum", expr="quantity * price"),
                Rollup(target="lines", fn="count"),
                Rollup(target="dearest", fn="max", source="price"),
                Rollup(target="mean", fn="avg", source="price"),
                Rollup(target="whole_mean", fn="avg", source="price"),
                Rollup(target="last_day", fn="max", source="day"),
            ),
        ),
        Relation(
            name="gifts",
            kind="one_to_many",
            through="lines",
            foreign_key="order_id",
            scope={"gift": True},
            rollups=(Rollup(target="gifts", fn="count"),),
        ),
    ),
)
LINE = ModelDefinition(
    key="Line",
    table="lines",
    soft_delete=True,
    columns=(
        Column(name="order_id", type=ColumnType.UUID),
        Column(name="quantity", type=ColumnType.INT, default="1"),
        Column(name="price", type=ColumnType.DECIMAL),
        Column(name="day", type=ColumnType.DATE),
        Column(name="gift", type=ColumnType.BOOL),
        Column(name="note", type=ColumnType.TEXT),
    ),
)


@dataclass
class Shop:
    desk: Desk
    service: DynamicService
    ada: Principal
    eve: Principal

    async def make(self, model: str, who: Principal | None = None, **values: Any) -> str:
        return str((await self.service.create(who or self.ada, model, values))["id"])

    async def line(self, order: str, **values: Any) -> Any:
        return (await self.service.create(self.ada, "Line", {"order_id": order, **values}))["id"]

    async def row(self, model: str, row_id: str, *names: str) -> dict[str, Any]:
        row = await self.service.get(self.ada, model, _uuid(row_id))
        return {name: row[name] for name in names}

    async def told(self, ending: str) -> list[Mapping[str, Any]]:
        told = [event["data"] for event in await self.desk.events() if event["event_type"].endswith(ending)]
        return [orjson.loads(data) if isinstance(data, str) else data for data in told]


def _uuid(text: str) -> uuid.UUID:
    return uuid.UUID(text)


@pytest.fixture(params=["postgresql", "sqlite"])
def databases(request: pytest.FixtureRequest) -> tuple[Database, Database]:
    """The database that is served and the one that may do DDL."""
    if request.param == "sqlite":
        database = request.getfixturevalue("sqlite_db")
        return database, database
    return request.getfixturevalue("kernel_db"), request.getfixturevalue("owner_db")


@pytest.fixture
async def shop(databases: tuple[Database, Database]) -> Shop:
    serving, owner = databases
    desk = Desk(serving, owner)
    for definition in (CUSTOMER, ORDER, LINE):
        await desk.add(definition)
    ada, eve = await _both(owner)
    desk.install_for(ada.organization_id, eve.organization_id)
    return Shop(desk, DynamicService(serving, desk.registry), ada, eve)


async def _both(owner: Database) -> tuple[Principal, Principal]:
    return principal(await make_organization(owner, "Acme")), principal(await make_organization(owner, "Evil"))


async def test_every_change_of_a_child_counts_in_its_parent_and_above(shop: Shop) -> None:
    customer = await shop.make("Customer", name="Ada")
    order = await shop.make("Order", customer_id=customer)
    assert await shop.row("Customer", customer, "owed", "orders") == {"owed": 0, "orders": 1}
    first = await shop.line(order, quantity=2, price=10.5, day="2026-01-02", gift=True)
    second = await shop.line(order, price=3, day="2026-01-05")
    names = ("net", "total", "lines", "dearest", "mean", "whole_mean", "last_day", "gifts")
    assert await shop.row("Order", order, *names) == {
        "net": 24,
        "total": 36,
        "lines": 2,
        "dearest": 10.5,
        "mean": 6.75,
        "whole_mean": 7,
        "last_day": "2026-01-05",
        "gifts": 1,
    }
    assert await shop.row("Customer", customer, "owed") == {"owed": 36}
    await shop.service.update(shop.ada, "Line", _uuid(second), {"price": 5, "gift": True})
    assert await shop.row("Order", order, "net", "gifts") == {"net": 26, "gifts": 2}
    await shop.service.delete(shop.ada, "Line", _uuid(first))
    assert await shop.row("Order", order, "net", "total", "lines", "gifts") == {
        "net": 5,
        "total": 7.5,
        "lines": 1,
        "gifts": 1,
    }
    await shop.service.delete(shop.ada, "Line", _uuid(second))
    assert await shop.row("Order", order, *names) == {
        "net": 0,
        "total": 0,
        "lines": 0,
        "dearest": None,
        "mean": None,
        "whole_mean": None,
        "last_day": None,
        "gifts": 0,
    }
    assert await shop.row("Customer", customer, "owed") == {"owed": 0}


async def test_a_child_that_moves_counts_in_its_new_parent_only(shop: Shop) -> None:
    here, there = await shop.make("Order"), await shop.make("Order")
    line = await shop.line(here, price=7)
    loose = await shop.make("Line", price=9)
    await shop.service.update(shop.ada, "Line", _uuid(line), {"order_id": there})
    await shop.service.update(shop.ada, "Line", _uuid(loose), {"order_id": there})
    assert await shop.row("Order", here, "net", "lines") == {"net": 0, "lines": 0}
    assert await shop.row("Order", there, "net", "lines") == {"net": 16, "lines": 2}
    await shop.service.update(shop.ada, "Line", _uuid(loose), {"order_id": None})
    assert await shop.row("Order", there, "net", "lines") == {"net": 7, "lines": 1}


async def test_the_parent_tells_of_itself_and_only_when_it_changed(shop: Shop) -> None:
    heard: list[tuple[Any, Any]] = []

    @shop.service.hooks.after_update("Order")
    async def hear(context: HookContext, row: dict[str, Any]) -> None:
        heard.append(((context.before or {})["net"], row["net"]))

    order = await shop.make("Order")
    line = await shop.line(order, price=2, note="a")
    await shop.service.update(shop.ada, "Line", _uuid(line), {"note": "b"})
    await shop.service.update(shop.ada, "Line", _uuid(line), {"price": 2})
    told = await shop.told("Order.updated")
    assert [(data["before"]["net"], data["after"]["net"]) for data in told] == [(0, 2)]
    assert heard == [(0, 2)]


async def test_nobody_sets_what_is_rolled_up(shop: Shop) -> None:
    order = await shop.make("Order", net=99, lines=4)
    assert await shop.row("Order", order, "net", "lines", "total", "mean") == {
        "net": 0,
        "lines": 0,
        "total": 0,
        "mean": None,
    }
    await shop.service.update(shop.ada, "Order", _uuid(order), {"net": 99, "limit": 5})
    assert await shop.row("Order", order, "net", "limit") == {"net": 0, "limit": 5}


async def test_children_of_others_count_for_nobody(shop: Shop) -> None:
    order = await shop.make("Order")
    await shop.line(order, price=2)
    await shop.make("Line", shop.eve, order_id=order, price=50)
    assert await shop.row("Order", order, "net", "lines") == {"net": 2, "lines": 1}
    with pytest.raises(NotFound):
        await shop.service.get(shop.eve, "Order", _uuid(order))


async def test_what_a_constraint_of_the_parent_refuses_takes_the_child_back(shop: Shop) -> None:
    order = await shop.make("Order", limit=10)
    line = await shop.line(order, price=8)
    with pytest.raises(Refused, match="Order above: net: net <= limit does not hold") as refused:
        await shop.service.update(shop.ada, "Line", _uuid(line), {"price": 11})
    assert (refused.value.code, [problem.code for problem in refused.value.problems]) == ("rollup", ["limit"])
    with pytest.raises(Refused, match="Order above: net: at most 14 digits"):
        await shop.line(await shop.make("Order"), quantity=2_000_000, price=99_999_999_999)
    with pytest.raises(Refused, match="net <= limit"):
        await shop.line(order, price=3)
    assert await shop.row("Order", order, "net") == {"net": 8}
    if shop.desk.serving.dialect == "postgresql":  # On SQLite the parent follows the child, in a change of its own.
        lines, _ = await shop.service.list(shop.ada, "Line")
        assert [each["price"] for each in lines] == [8]
        assert len(await shop.told("Line.updated")) == 0


async def test_children_made_at_once_are_all_counted(shop: Shop) -> None:
    order, other = await shop.make("Order"), await shop.make("Order")
    await asyncio.gather(*(shop.line(order if number % 3 else other, price=number) for number in range(12)))
    lines, _ = await shop.service.list(shop.ada, "Line", ())
    mine = [line for line in lines if line["order_id"] == order]
    assert await shop.row("Order", order, "net", "lines") == {"net": sum(line["price"] for line in mine), "lines": 8}
    await asyncio.gather(
        *(shop.service.update(shop.ada, "Line", _uuid(line["id"]), {"order_id": other}) for line in mine[:4]),
        *(shop.service.delete(shop.ada, "Line", _uuid(line["id"])) for line in mine[4:]),
    )
    assert await shop.row("Order", order, "net", "lines") == {"net": 0, "lines": 0}
    assert await shop.row("Order", other, "lines") == {"lines": 8}


@pytest.mark.parametrize(
    ("rollup", "through"),
    [
        (Rollup(target="size", fn="sum", source="absent"), {}),
        (Rollup(target="size", fn="sum", expr="absent * 2"), {}),
        (Rollup(target="absent", fn="count"), {}),
        (Rollup(target="size", fn="count"), {"foreign_key": "absent_id"}),
        (Rollup(target="size", fn="count"), {"references": "secret"}),
        (Rollup(target="size", fn="count"), {"through": "elsewhere.Box"}),
    ],
)
async def test_a_rollup_that_cannot_be_keeps_no_child_from_being_saved(
    databases: tuple[Database, Database], rollup: Rollup, through: dict[str, str]
) -> None:
    serving, owner = databases
    relation = {"through": "Box", "foreign_key": "shelf_id", **through}
    desk = Desk(serving, owner)
    shelf = ModelDefinition(
        key="Shelf",
        table="shelves",
        columns=(
            Column(name="size", type=ColumnType.INT),
            Column(name="secret", type=ColumnType.STRING, widget="password"),
        ),
        relations=(Relation.model_validate({"name": "r", "kind": "one_to_many", "rollups": (rollup,), **relation}),),
    )
    await desk.add(shelf)
    await desk.add(ModelDefinition(key="Box", table="boxes", columns=(Column(name="shelf_id", type=ColumnType.UUID),)))
    ada, _ = await _both(owner)
    desk.install_for(ada.organization_id)
    service = DynamicService(serving, desk.registry)
    made = await service.create(ada, "Shelf", {})
    box = await service.create(ada, "Box", {"shelf_id": made["id"]})
    await service.delete(ada, "Box", uuid.UUID(box["id"]))
    assert (await service.get(ada, "Shelf", uuid.UUID(made["id"])))["size"] in (0, None)


async def test_rows_of_one_table_may_be_above_each_other(databases: tuple[Database, Database]) -> None:
    serving, owner = databases
    desk = Desk(serving, owner)
    tree = ModelDefinition(
        key="Node",
        table="nodes",
        columns=(
            Column(name="above_id", type=ColumnType.UUID),
            Column(name="own", type=ColumnType.INT, default="0"),
            Column(name="below", type=ColumnType.DECIMAL),
            Column(name="weight", type=ColumnType.DECIMAL),
        ),
        formulas=(Formula(target="weight", expr="own + below"),),
        relations=(
            Relation(
                name="children",
                kind="one_to_many",
                through="Node",
                foreign_key="above_id",
                rollups=(Rollup(target="below", fn="sum", source="weight"),),
            ),
        ),
    )
    await desk.add(tree)
    ada, _ = await _both(owner)
    desk.install_for(ada.organization_id)
    service = DynamicService(serving, desk.registry)
    ids: list[str] = []
    for own in (1, 2, 4):
        above = {"above_id": ids[-1]} if ids else {}
        ids.append((await service.create(ada, "Node", {"own": own, **above}))["id"])
    rows = {row["id"]: row for row in (await service.list(ada, "Node"))[0]}
    assert [rows[each]["weight"] for each in ids] == [7, 6, 4]
    # A row above itself weighs ever more: that ends, and nothing of it stays where a transaction can take it back.
    with pytest.raises(Refused, match="rollups reach more than"):
        await service.update(ada, "Node", uuid.UUID(ids[2]), {"above_id": ids[2]})
    if serving.dialect == "postgresql":
        rows = {row["id"]: row for row in (await service.list(ada, "Node"))[0]}
        assert [rows[each]["weight"] for each in ids] == [7, 6, 4]
