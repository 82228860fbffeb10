"""Numbers of new rows, and numbers that several add to at once, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from tests.factories import make_organization, principal
from tests.live_models import Desk

from metacore.db.database import Database
from metacore.dynamic.hook_points import HookContext, HookRegistry
from metacore.dynamic.sequences import formatted
from metacore.dynamic.service import DynamicService
from metacore.errors import InvalidInput, Misconfigured, NotFound, Refused
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType, ModelDefinition, Sequence

INVOICE = ModelDefinition(
    key="Invoice",
    table="invoices",
    columns=(
        Column(name="title", type=ColumnType.STRING, required=True),
        Column(name="series", type=ColumnType.STRING),
        Column(name="number", type=ColumnType.STRING, required=True, sequence="number"),
        Column(name="place", type=ColumnType.INT, sequence="place"),
        Column(name="count", type=ColumnType.INT),
    ),
    sequences=(
        Sequence(key="number", scope="series", format="R-{seq:04}/x"),
        Sequence(key="place", format="{seq}"),
    ),
)


@pytest.fixture
async def desk(databases: tuple[Database, Database]) -> Desk:
    desk = Desk(*databases)
    await desk.add(INVOICE, overrides={})
    return desk


@pytest.fixture
async def ada(desk: Desk) -> Principal:
    return await somebody(desk)


@pytest.fixture
def service(desk: Desk) -> DynamicService:
    return DynamicService(desk.serving, desk.registry, hooks=HookRegistry())


async def somebody(desk: Desk) -> Principal:
    who = principal(await make_organization(desk.owner))
    desk.install_for(who.organization_id)
    return who


async def test_rows_made_at_once_get_every_number_once(desk: Desk, service: DynamicService, ada: Principal) -> None:
    eve = await somebody(desk)
    made = await asyncio.gather(*(service.create(ada, "Invoice", {"title": str(n)}) for n in range(20)))
    assert sorted(row["number"] for row in made) == [f"R-{n:04}/x" for n in range(1, 21)]
    assert sorted(row["place"] for row in made) == list(range(1, 21))
    hers = await service.create(eve, "Invoice", {"title": "hers"})
    assert (hers["number"], hers["place"]) == ("R-0001/x", 1)
    apart = await service.create(ada, "Invoice", {"title": "t", "series": "B"})
    assert (apart["number"], apart["place"]) == ("R-0001/x", 21)
    given = await service.create(ada, "Invoice", {"title": "t", "number": "mine", "place": 5})
    assert (given["number"], given["place"]) == ("mine", 5)
    assert await service.next_number(ada, "Invoice", "place") == "22"
    with pytest.raises(NotFound):
        await service.next_number(ada, "Invoice", "absent")
    with pytest.raises(InvalidInput):
        await service.next_number(ada, "Invoice", "number", "x" * 256)


async def test_a_row_that_is_refused_before_takes_no_number(service: DynamicService, ada: Principal) -> None:
    with pytest.raises(Refused):
        await service.create(ada, "Invoice", {})
    assert (await service.create(ada, "Invoice", {"title": "first"}))["place"] == 1


async def test_additions_at_once_are_all_kept(service: DynamicService, ada: Principal) -> None:
    row_id = uuid.UUID((await service.create(ada, "Invoice", {"title": "t"}))["id"])
    for _ in range(3):
        await asyncio.gather(*(service.update(ada, "Invoice", row_id, {}, increments={"count": 2}) for _ in range(2)))
    assert (await service.get(ada, "Invoice", row_id))["count"] == 12
    for increments, error in (
        ({"title": 1}, InvalidInput),
        ({"count": "x"}, InvalidInput),
        ({"count": 2**40}, Refused),
    ):
        with pytest.raises((error, InvalidInput)):
            await service.update(ada, "Invoice", row_id, {}, increments=increments)
    assert (await service.get(ada, "Invoice", row_id))["count"] == 12


async def test_changes_in_one_transaction_are_all_made_or_none(service: DynamicService, ada: Principal) -> None:
    told: list[str] = []

    @service.hooks.after_create("Invoice")
    async def tell(_context: HookContext, row: dict[str, Any]) -> None:
        told.append(row["title"])

    if service._db.dialect == "sqlite":
        with pytest.raises(Misconfigured):
            async with service.transaction():
                pass
        return
    with pytest.raises(Refused):
        async with service.transaction() as rows:
            await rows.create(ada, "Invoice", {"title": "one"})
            await rows.create(ada, "Invoice", {})
    assert (await service.list(ada, "Invoice"))[1]["total"] == 0
    async with service.transaction() as rows:
        made = await rows.create(ada, "Invoice", {"title": "two"})
        changed = await rows.update(ada, "Invoice", uuid.UUID(made["id"]), {}, increments={"count": 1})
        assert changed["count"] == 1
        assert (await service.list(ada, "Invoice"))[1]["total"] == 0
        assert told == []
    assert told == ["two"]
    assert (await service.list(ada, "Invoice"))[1]["total"] == 1


@pytest.mark.parametrize(
    ("form", "number", "text"),
    [("{seq}", 7, "7"), ("A-{seq:06}", 7, "A-000007"), ("{seq:03}-b", 12345, "12345-b"), ("n{seq:4}", 1, "n0001")],
)
def test_a_format_places_the_number(form: str, number: int, text: str) -> None:
    assert formatted(form, number) == text
