"""What children come to, in the row above them: after every change of a child, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from tests.live_models import Desk
from tests.rolled_shop import NODE, Shop, both, open_shop

from metacore.db.database import Database
from metacore.dynamic import rollups
from metacore.dynamic.hook_points import HookContext
from metacore.dynamic.service import DynamicService
from metacore.errors import NotFound, Refused
from metacore.manifest.model import Column, ColumnType, ModelDefinition, Relation, Rollup


def _uuid(text: str) -> uuid.UUID:
    return uuid.UUID(text)


@pytest.fixture
async def shop(databases: tuple[Database, Database]) -> Shop:
    return await open_shop(*databases)


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
    lines, _ = await shop.service.list(shop.ada, "Line")
    assert [each["price"] for each in lines] == [8]
    assert len(await shop.told("Line.updated")) == 0
    assert len(await shop.told("Line.created")) == 1


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
    ada, _ = await both(owner)
    desk.install_for(ada.organization_id)
    service = DynamicService(serving, desk.registry)
    made = await service.create(ada, "Shelf", {})
    box = await service.create(ada, "Box", {"shelf_id": made["id"]})
    await service.delete(ada, "Box", uuid.UUID(box["id"]))
    assert (await service.get(ada, "Shelf", uuid.UUID(made["id"])))["size"] in (0, None)


@pytest.mark.parametrize(
    ("kind", "references", "values"),
    [
        (ColumnType.TEXT, "id", ["no uuid", "{shelf}", "{SHELF}"]),
        (ColumnType.INT, "id", [7]),
        (ColumnType.TEXT, "number", ["7"]),
        (ColumnType.BIGINT, "number", [2**40]),
    ],
)
async def test_a_foreign_key_that_can_name_no_parent_has_none(
    databases: tuple[Database, Database], kind: ColumnType, references: str, values: list[Any]
) -> None:
    counted = Relation(
        name="boxes",
        kind="one_to_many",
        through="Box",
        foreign_key="shelf",
        references=references,
        rollups=(Rollup(target="size", fn="count"),),
    )
    columns = (Column(name="number", type=ColumnType.INT), Column(name="size", type=ColumnType.INT))
    shelf = ModelDefinition(key="Shelf", table="shelves", columns=columns, relations=(counted,))
    box = ModelDefinition(key="Box", table="boxes", columns=(Column(name="shelf", type=kind),))
    shop = await open_shop(*databases, shelf, box)
    made = await shop.make("Shelf", number=7)
    for value in values:
        named = value.format(shelf=made, SHELF=made.upper()) if isinstance(value, str) else value
        saved = await shop.make("Box", shelf=named)
        await shop.change("Box", saved, shelf=None)
        await shop.change("Box", saved, shelf=named)
        await shop.service.delete(shop.ada, "Box", _uuid(saved))
    assert await shop.row("Shelf", made, "size") == {"size": 0}


async def test_a_parent_may_be_named_by_a_number(databases: tuple[Database, Database]) -> None:
    counted = Relation(
        name="boxes",
        kind="one_to_many",
        through="Box",
        foreign_key="shelf",
        references="number",
        rollups=(Rollup(target="size", fn="count"),),
    )
    columns = (Column(name="number", type=ColumnType.INT), Column(name="size", type=ColumnType.INT))
    shelf = ModelDefinition(key="Shelf", table="shelves", columns=columns, relations=(counted,))
    box = ModelDefinition(key="Box", table="boxes", columns=(Column(name="shelf", type=ColumnType.INT),))
    shop = await open_shop(*databases, shelf, box)
    none, seven = await shop.make("Shelf", number=0), await shop.make("Shelf", number=7)
    boxes = [await shop.make("Box", shelf=number) for number in (0, 7, 7, None)]
    await shop.change("Box", boxes[1], shelf=0)
    assert await shop.row("Shelf", none, "size") == {"size": 2}
    assert await shop.row("Shelf", seven, "size") == {"size": 1}


async def test_code_that_computes_a_parent_may_read_and_write_meanwhile(shop: Shop) -> None:
    seen: list[int] = []

    async def compute(context: HookContext, row: dict[str, Any]) -> dict[str, Any]:
        seen.append(len((await shop.service.list(shop.ada, "Customer"))[0]))
        await shop.make("Customer", name="made meanwhile")
        return {}

    shop.service.hooks.register("compute", "Order", compute)
    order = await shop.make("Order")
    await shop.line(order, price=3)
    assert await shop.row("Order", order, "net") == {"net": 3}
    assert seen == [0, 1]
    assert len((await shop.service.list(shop.ada, "Customer"))[0]) == 2


async def test_a_change_with_rows_above_it_wakes_the_relay_and_its_after_hooks(shop: Shop) -> None:
    woken: list[int] = []
    heard: list[str] = []
    service = DynamicService(shop.desk.serving, shop.desk.registry, on_commit=lambda: woken.append(1))

    async def hear(context: HookContext, row: dict[str, Any]) -> None:
        heard.append(f"{context.model.key} {len(woken)}")

    for point in ("after_create", "after_update", "after_delete"):
        for model in ("Line", "Order"):
            service.hooks.register(point, model, hear)
    order = await shop.make("Order", limit=10)
    line = await service.create(shop.ada, "Line", {"order_id": order, "price": 4})
    await service.update(shop.ada, "Line", _uuid(line["id"]), {"price": 5})
    with pytest.raises(Refused):
        await service.update(shop.ada, "Line", _uuid(line["id"]), {"price": 50})
    await service.delete(shop.ada, "Line", _uuid(line["id"]))
    assert len(woken) == 3
    assert [each.split()[0] for each in heard] == ["Order", "Line"] * 3


async def test_rows_of_one_table_may_be_above_each_other(databases: tuple[Database, Database]) -> None:
    shop = await open_shop(*databases, NODE)
    ids: list[str] = []
    for own in (1, 2, 4):
        ids.append(await shop.make("Node", own=own, above_id=ids[-1] if ids else None))

    async def weights() -> list[Any]:
        return [(await shop.row("Node", each, "weight"))["weight"] for each in ids]

    assert await weights() == [7, 6, 4]
    # To the row above the one above it, and back.
    await shop.change("Node", ids[2], above_id=ids[0])
    assert await weights() == [7, 2, 4]
    await shop.change("Node", ids[2], above_id=ids[1])
    assert await weights() == [7, 6, 4]
    # A row above itself weighs ever more: that is refused, and nothing of it stays.
    for child, above in ((2, 2), (1, 2), (0, 2)):
        with pytest.raises(Refused, match="is above itself") as refused:
            await shop.change("Node", ids[child], above_id=ids[above])
        assert refused.value.code == "cycle"
    assert await weights() == [7, 6, 4]


async def test_a_tree_may_be_deep_but_not_endless(
    databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await open_shop(*databases, NODE)
    root = await shop.make("Node", own=1)
    above = root
    for _ in range(12):
        above = await shop.make("Node", own=1, above_id=above)
    assert await shop.row("Node", root, "weight") == {"weight": 13}
    monkeypatch.setattr(rollups, "DEEPEST", 12)
    with pytest.raises(Refused, match="rollups reach more than 12 rows up") as refused:
        await shop.make("Node", own=1, above_id=above)
    assert refused.value.code == "too_deep"
    assert await shop.row("Node", root, "weight") == {"weight": 13}


async def test_a_row_that_is_above_itself_is_told_as_it_is_afterwards(databases: tuple[Database, Database]) -> None:
    counted = Relation(
        name="children",
        kind="one_to_many",
        through="Node",
        foreign_key="above_id",
        rollups=(Rollup(target="kids", fn="count"),),
    )
    shop = await open_shop(*databases, NODE.model_copy(update={"relations": (counted,)}))
    heard: list[Any] = []

    @shop.service.hooks.after_update("Node")
    async def hear(context: HookContext, row: dict[str, Any]) -> None:
        heard.append(row["kids"])

    node = await shop.make("Node")
    told = await shop.service.update_json(shop.ada, "Node", _uuid(node), {"above_id": node})
    assert told == await shop.service.get_json(shop.ada, "Node", _uuid(node))
    assert (await shop.row("Node", node, "kids"), heard) == ({"kids": 1}, [1, 1])
    told = await shop.service.update_json(shop.ada, "Node", _uuid(node), {"above_id": None})
    assert told == await shop.service.get_json(shop.ada, "Node", _uuid(node))
    assert await shop.row("Node", node, "kids") == {"kids": 0}
