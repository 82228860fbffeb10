"""Search and facets: found and counted in the caller's scope only, on both databases."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from tests.desk import Desk, open_desk

from metacore.db.database import Database
from metacore.dynamic.aggregate import FacetsService
from metacore.dynamic.options import OptionsService
from metacore.dynamic.search import SearchService, parse_search_query
from metacore.errors import InvalidInput, NotFound, PermissionDenied
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore


@pytest.fixture
async def postgres_desk(kernel_db: Database, owner_db: Database) -> Desk:
    return await open_desk(kernel_db, owner_db)


@pytest.fixture
async def sqlite_desk(sqlite_db: Database) -> Desk:
    return await open_desk(sqlite_db, sqlite_db)


@pytest.fixture(params=["postgres_desk", "sqlite_desk"])
def desk(request: pytest.FixtureRequest) -> Desk:
    made: Desk = request.getfixturevalue(request.param)
    return made


async def found(desk: Desk, model: str, caller: Principal | None = None, **params: str) -> list[dict[str, Any]]:
    query = parse_search_query(list(params.items()))
    return await SearchService(desk.db, desk.registry).search(caller or desk.caller(), model, query)


async def counted(desk: Desk, caller: Principal | None = None, **params: str) -> list[tuple[Any, str, int]]:
    options = OptionsService(desk.db, desk.registry)
    service = FacetsService(desk.db, desk.registry, options=options)
    buckets = await service.facets(caller or desk.caller(), "tickets", list(params.items()))
    return [(bucket["value"], bucket["label"], bucket["count"]) for bucket in buckets]


async def test_search_looks_in_the_search_columns(desk: Desk) -> None:
    anvils = await desk.add("Customer", name="Acme", description="Anvils and more", logo="/anvils.png")
    await desk.add("Customer", name="Anvil Ltd")
    await desk.add("Customer", name="Other", api_key="anvil")
    rows = await found(desk, "Customer", q="aNVil")
    assert [row["label"] for row in rows] == ["Acme", "Anvil Ltd"]
    assert rows[0] == {
        "id": str(anvils),
        "value": anvils,
        "label": "Acme",
        "name": "Acme",
        "description": "Anvils and more",
        "image": "/anvils.png",
    }
    assert rows == await found(desk, "Customer", search="anvil")


async def test_search_without_a_term_gives_the_first_rows(desk: Desk) -> None:
    for name in ("b", "a", "c"):
        await desk.add("Customer", name=name)
    assert [row["label"] for row in await found(desk, "Customer", limit="2")] == ["a", "b"]


async def test_search_sees_no_rows_of_others_and_no_deleted_ones(desk: Desk) -> None:
    await desk.add("tickets", title="printer")
    await desk.add("tickets", desk.globex, title="printer of others")
    await desk.add("tickets", title="printer gone", deleted_at=datetime.datetime.now(datetime.UTC))
    assert [row["label"] for row in await found(desk, "tickets", q="printer")] == ["printer"]


async def test_wildcards_in_a_term_are_ordinary_characters(desk: Desk) -> None:
    await desk.add("tickets", title="100% sure")
    await desk.add("tickets", title="100 sure")
    assert [row["label"] for row in await found(desk, "tickets", q="%")] == ["100% sure"]


async def test_search_needs_the_model_and_the_right_to_read_it(desk: Desk) -> None:
    guarded = SearchService(desk.db, desk.registry, permissions=PermissionService(MemoryPermissionStore()))
    with pytest.raises(PermissionDenied, match=r"tickets\.read"):
        await guarded.search(desk.caller(role="agent"), "tickets", parse_search_query([]))
    with pytest.raises(NotFound):
        await found(desk, "cities", desk.caller(desk.globex))


@pytest.mark.parametrize(("text", "limit"), [("", 50), ("999", 200), ("-1", 1)])
def test_the_limit_of_a_search_is_clamped(text: str, limit: int) -> None:
    assert parse_search_query([("limit", text)]).limit == limit


async def test_facets_count_values_under_the_filters_of_the_list(desk: Desk) -> None:
    for status, priority, count in (
        ("open", "low", 1),
        ("open", "high", 5),
        ("done", "low", 9),
        ("open", "", 1),
        ("open", None, 1),
    ):
        await desk.add("tickets", title=f"{status} {priority}", status=status, priority=priority, count=count)
    await desk.add("tickets", desk.globex, title="theirs", priority="low")
    await desk.add("tickets", title="gone", priority="low", deleted_at=datetime.datetime.now(datetime.UTC))
    assert await counted(desk, field="priority") == [("low", "low", 2), ("high", "high", 1)]
    assert await counted(desk, field="priority", f_status="eq:open") == [("high", "high", 1), ("low", "low", 1)]
    assert await counted(desk, field="priority", f_count="range:2|6") == [("high", "high", 1)]
    assert await counted(desk, field="priority", f_status="in:done,closed") == [("low", "low", 1)]
    assert await counted(desk, field="priority", search="OPEN", q="l") == [("low", "low", 1)]
    assert await counted(desk, field="priority", limit="1") == [("low", "low", 2)]


async def test_facets_of_a_column_with_options_have_their_labels(desk: Desk) -> None:
    acme = await desk.add("Customer", name="Acme")
    for status in ("done", "done", "odd"):
        await desk.add("tickets", title="t", status=status, customer_id=acme)
    assert await counted(desk, field="status") == [("done", "All done", 2), ("odd", "odd", 1)]
    assert await counted(desk, field="customer_id") == [(acme, "Acme", 3)]


async def test_facets_are_looked_for_by_what_people_see(desk: Desk) -> None:
    acme, other = await desk.add("Customer", name="Acme"), await desk.add("Customer", name="Zenith")
    for status, customer in (("done", acme), ("odd", acme), ("open", other)):
        await desk.add("tickets", title="t", status=status, customer_id=customer)
    assert await counted(desk, field="status", q="ALL d") == [("done", "All done", 1)]
    assert await counted(desk, field="status", q="oDD") == [("odd", "odd", 1)]
    assert await counted(desk, field="customer_id", q="acm") == [(acme, "Acme", 2)]
    assert await counted(desk, field="customer_id", q=str(other)[:8]) == [(other, "Zenith", 1)]
    assert await counted(desk, field="status", q="nothing") == []


async def test_facets_do_not_tell_names_that_the_caller_may_not_read(desk: Desk) -> None:
    store = MemoryPermissionStore()
    await store.grant_role(desk.acme, "agent", "tickets.read")
    permissions = PermissionService(store)
    options = OptionsService(desk.db, desk.registry, permissions=permissions)
    service = FacetsService(desk.db, desk.registry, permissions=permissions, options=options)
    acme = await desk.add("Customer", name="Acme")
    await desk.add("tickets", title="t", customer_id=acme)
    buckets = await service.facets(desk.caller(role="agent"), "tickets", [("field", "customer_id")])
    assert buckets == [{"value": acme, "label": str(acme), "count": 1}]
    # Nor is what is found a way to guess them.
    assert not await service.facets(desk.caller(role="agent"), "tickets", [("field", "customer_id"), ("q", "Acme")])
    with pytest.raises(PermissionDenied):
        await service.facets(principal_without_grants(desk), "tickets", [("field", "status")])


def principal_without_grants(desk: Desk) -> Principal:
    return desk.caller(role=f"nobody-{uuid.uuid4().hex}")


async def test_facets_of_other_types(desk: Desk) -> None:
    await desk.add("tickets", title="t", urgent=True, due=datetime.date(2026, 1, 2))
    assert await counted(desk, field="urgent") == [(True, "true", 1)]
    assert await counted(desk, field="due") == [(datetime.date(2026, 1, 2), "2026-01-02", 1)]


@pytest.mark.parametrize("field", ["nonsense", "token", "title; --"])
async def test_facets_of_an_unknown_or_secret_column_are_not_found(desk: Desk, field: str) -> None:
    with pytest.raises(NotFound):
        await counted(desk, field=field)


@pytest.mark.parametrize(
    "params", [{}, {"field": "note"}, {"field": "data"}, {"field": "id"}, {"field": "status", "f_count": "eq:many"}]
)
async def test_facets_that_cannot_be_counted_are_refused(desk: Desk, params: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        await counted(desk, None, **params)
