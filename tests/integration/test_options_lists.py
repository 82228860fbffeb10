"""Options: static lists, rows of other models, computed lists; in the caller's scope, on both databases."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import pytest
from tests.desk import Desk, open_desk

from metacore.db.database import Database
from metacore.dynamic.options import Options, OptionsQuery, OptionsService, parse_options_query
from metacore.errors import InvalidInput, NotFound, NotWired, PermissionDenied, Unavailable
from metacore.identity import Principal
from metacore.metadata.model import OptionDef
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore
from metacore.translator import CatalogTranslator


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


def service(desk: Desk, **more: Any) -> OptionsService:
    return OptionsService(desk.db, desk.registry, **more)


async def ask(desk: Desk, model: str, caller: Principal | None = None, **params: Any) -> Options:
    query = parse_options_query([(name, str(value)) for name, value in params.items()])
    return await service(desk).options(caller or desk.caller(), model, query)


def labels(options: Options) -> list[str]:
    return [row["label"] for row in options.rows]


async def test_the_rows_of_a_model_are_its_options_with_what_describes_them(desk: Desk) -> None:
    plain = await desk.add("Customer", name="Zed")
    full = await desk.add("Customer", name="Acme", description="Anvils", logo="/acme.png", api_key="hidden")
    expected = [
        {
            "id": str(full),
            "value": full,
            "label": "Acme",
            "name": "Acme",
            "description": "Anvils",
            "image": "/acme.png",
        },
        {"id": str(plain), "value": plain, "label": "Zed", "name": "Zed"},
    ]
    for field in ("", "id"):
        found = await ask(desk, "customers", field=field)
        assert (found.kind, found.rows) == ("dynamic", expected)


async def test_rows_of_other_organizations_and_deleted_rows_are_no_options(desk: Desk) -> None:
    await desk.add("tickets", title="mine")
    await desk.add("tickets", desk.globex, title="theirs")
    await desk.add("tickets", title="gone", deleted_at=datetime.datetime.now(datetime.UTC))
    assert labels(await ask(desk, "tickets")) == ["mine"]
    assert labels(await ask(desk, "tickets", desk.caller(desk.globex))) == ["theirs"]
    # The writer sees everybody's rows, so here the statement alone holds the scope.
    unheld = OptionsService(desk.writer, desk.registry)
    assert labels(await unheld.options(desk.caller(), "tickets", OptionsQuery())) == ["mine"]


async def test_a_reference_offers_the_rows_of_its_model(desk: Desk) -> None:
    await desk.add("Customer", name="Acme")
    await desk.add("tickets", title="not a customer")
    assert labels(await ask(desk, "tickets", field="customer_id")) == ["Acme"]


async def test_a_source_says_which_columns_are_value_label_and_filter(desk: Desk) -> None:
    await desk.add("cities", code="MTY", title="Monterrey", country="mx", icon="mountain", color="red")
    await desk.add("cities", code="NYC", title="New York", country="us")
    both = await ask(desk, "tickets", field="city")
    assert [(row["value"], row["label"]) for row in both.rows] == [("MTY", "Monterrey"), ("NYC", "New York")]
    assert (both.rows[0]["icon"], both.rows[0]["color"]) == ("mountain", "red")
    assert labels(await ask(desk, "tickets", field="city", filter_value="us")) == ["New York"]
    assert labels(await ask(desk, "tickets", field="city", filter_value="de")) == []
    assert labels(await ask(desk, "tickets", field="city", q="mty")) == ["Monterrey"]


async def test_a_search_term_is_taken_literally(desk: Desk) -> None:
    for name in ("100%", "100 percent", "a_b", "aXb", "back\\slash"):
        await desk.add("Customer", name=name)
    assert labels(await ask(desk, "customers", q="0%")) == ["100%"]
    assert labels(await ask(desk, "customers", q="A_B")) == ["a_b"]
    assert labels(await ask(desk, "customers", q="\\")) == ["back\\slash"]
    assert labels(await ask(desk, "customers", q="'; DROP TABLE customers; --")) == []


async def test_limit_and_offset_page_through_the_rows(desk: Desk) -> None:
    for number in range(5):
        await desk.add("Customer", name=f"C{number}")
    assert labels(await ask(desk, "customers", limit=2, offset=1)) == ["C1", "C2"]
    assert labels(await ask(desk, "customers", limit=-3)) == ["C0"]
    assert labels(await ask(desk, "customers", offset=99)) == []


async def test_chosen_values_are_resolved_by_their_ids(desk: Desk) -> None:
    first, _, third = [await desk.add("Customer", name=f"C{number}") for number in range(3)]
    found = await ask(desk, "tickets", field="customer_id", ids=f"{third},{first},not-an-id", q="ignored")
    assert labels(found) == ["C0", "C2"]


async def test_a_column_without_options_offers_the_values_that_are_there(desk: Desk) -> None:
    for priority in ("low", "high", "low", "", None):
        await desk.add("tickets", title="t", priority=priority)
    await desk.add("tickets", desk.globex, title="t", priority="secret")
    found = await ask(desk, "tickets", field="priority")
    assert found.rows == [{"id": value, "value": value, "label": value, "name": value} for value in ("high", "low")]
    assert labels(await ask(desk, "tickets", field="priority", q="HI")) == ["high"]


@pytest.mark.parametrize("field", ["nonsense", "token", "data", "organization_id; --", "city.title"])
async def test_an_unknown_or_secret_field_has_no_options(desk: Desk, field: str) -> None:
    with pytest.raises(NotFound) as caught:
        await ask(desk, "tickets", field=field)
    assert caught.value.code == "unknown_field"
    known = "field 'data' of model 'tickets' has no options"
    assert caught.value.message == (known if field == "data" else f"model 'tickets' has no field {field!r}")


async def test_a_source_model_that_is_not_installed_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await ask(desk, "tickets", desk.caller(desk.globex), field="city")
    desk.install(acme=("desk",))
    with pytest.raises(NotFound):
        await ask(desk, "tickets", field="city")


async def test_reading_the_source_model_is_needed_too(desk: Desk) -> None:
    store = MemoryPermissionStore()
    guarded = service(desk, permissions=PermissionService(store))
    caller = desk.caller(role="agent")

    async def options(model: str, field: str) -> Options:
        return await guarded.options(caller, model, OptionsQuery(field=field))

    with pytest.raises(PermissionDenied, match=r"tickets\.read"):
        await options("tickets", "status")
    await store.grant_role(desk.acme, "agent", "tickets.read")
    assert (await options("tickets", "status")).kind == "static"
    with pytest.raises(PermissionDenied, match=r"customer\.read"):
        await options("tickets", "customer_id")
    await store.grant_role(desk.acme, "agent", "customer.read")
    assert (await options("tickets", "customer_id")).rows == []


async def test_a_computed_list_comes_from_the_host(desk: Desk) -> None:
    async def currencies(_principal: Principal, _query: OptionsQuery) -> Sequence[OptionDef]:
        return [OptionDef(value="EUR", label="Euro"), OptionDef(value="USD", label="Dollar")]

    wired = service(desk, providers={"currencies": currencies})
    found = await wired.options(desk.caller(), "tickets", OptionsQuery(field="currency", q="eur"))
    assert found.rows == [{"id": "EUR", "value": "EUR", "label": "Euro", "name": "Euro"}]
    with pytest.raises(NotWired):
        await ask(desk, "tickets", field="currency")


async def test_static_options_never_touch_the_database(desk: Desk) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")
    translator = CatalogTranslator({"en": {"models.tickets.options.open": "Open"}})
    fixed = OptionsService(nowhere, desk.registry, translator=translator)
    found = await fixed.options(desk.caller(), "tickets", OptionsQuery(field="status"))
    assert found == Options(
        "static",
        [
            {
                "id": "open",
                "value": "open",
                "label": "Open",
                "name": "Open",
                "image": "/open.png",
                "color": "green",
            },
            {"id": "done", "value": "done", "label": "All done", "name": "All done", "icon": "check"},
        ],
    )
    paged = await fixed.options(desk.caller(), "tickets", OptionsQuery(field="status", q="O", limit=1, offset=1))
    assert labels(paged) == ["All done"]
    chosen = await fixed.options(desk.caller(), "tickets", OptionsQuery(field="status", ids=("done",), q="zzz"))
    assert labels(chosen) == ["All done"]
    with pytest.raises(Unavailable, match="cannot be reached"):
        await fixed.options(desk.caller(), "tickets", OptionsQuery())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([], (50, 0)),
        ([("limit", "1000"), ("offset", "7")], (200, 7)),
        ([("limit", "0"), ("offset", "-1")], (1, 0)),
        ([("limit", ""), ("offset", " ")], (50, 0)),
    ],
)
def test_limit_and_offset_are_clamped(params: list[tuple[str, str]], expected: tuple[int, int]) -> None:
    query = parse_options_query(params)
    assert (query.limit, query.offset) == expected


@pytest.mark.parametrize(
    "params", [[("limit", "many")], [("offset", "1.5")], [("ids", ",".join("x" * 101))], [("q", "a\x00")]]
)
def test_parameters_that_cannot_be_read_are_refused(params: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput):
        parse_options_query(params)


def test_long_terms_are_cut() -> None:
    assert len(parse_options_query([("q", "x" * 10_000)]).q) == 200


async def test_a_table_that_is_gone_is_unavailable_for_now(desk: Desk) -> None:
    async with desk.writer.engine.begin() as connection:
        await connection.run_sync(desk.tables["Customer"].drop)
    with pytest.raises(Unavailable):
        await ask(desk, "customers")


async def test_a_filter_value_must_be_of_the_filter_columns_type(desk: Desk) -> None:
    live = desk.registry.snapshot.models["tickets"]
    column = live.definition.column("city")
    assert column is not None and column.options_source is not None
    source = column.options_source.model_copy(update={"filter_by": "population"})
    object.__setattr__(column, "options_source", source)
    try:
        with pytest.raises(InvalidInput, match="filter_value"):
            await ask(desk, "tickets", field="city", filter_value="many")
    finally:
        object.__setattr__(column, "options_source", source.model_copy(update={"filter_by": "country"}))
