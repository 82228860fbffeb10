"""Options, search, facets and metadata over HTTP: the exact shapes that clients rely on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
from fastapi import Header
from tests.accounts import serving
from tests.desk import Desk, open_desk

from metacore.api.metadata import build_metadata_router
from metacore.api.options import build_options_router
from metacore.api.records import RecordsEndpoint, build_records_router
from metacore.db.database import Database
from metacore.dynamic.aggregate import FacetsService
from metacore.dynamic.options import OptionsService
from metacore.dynamic.search import SearchService
from metacore.dynamic.service import DynamicService
from metacore.identity import Principal
from metacore.metadata.service import MetadataService
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore
from metacore.translator import CatalogTranslator


@pytest.fixture
async def desk(sqlite_db: Database) -> Desk:
    return await open_desk(sqlite_db, sqlite_db)


@pytest.fixture
def metadata(desk: Desk) -> MetadataService:
    texts = {
        "en": {"models.tickets.options.open": "Open"},
        "es": {"models.tickets.options.open": "Abierto"},
    }
    return MetadataService(desk.registry, CatalogTranslator(texts))


@pytest.fixture
async def client(desk: Desk, metadata: MetadataService) -> AsyncIterator[httpx2.AsyncClient]:
    """Callers say who they are by headers; `agent` may read customers only."""
    store = MemoryPermissionStore()
    await store.grant_role(desk.acme, "agent", "customer.read")
    permissions = PermissionService(store)

    async def principal(role: Annotated[str, Header()] = "owner", of: Annotated[str, Header()] = "acme") -> Principal:
        return desk.caller(desk.acme if of == "acme" else desk.globex, role=role)

    options = OptionsService(desk.db, desk.registry, permissions=permissions)
    routers = [
        build_metadata_router(metadata, permissions, principal),
        build_options_router(
            options,
            SearchService(desk.db, desk.registry, permissions=permissions),
            FacetsService(desk.db, desk.registry, permissions=permissions, options=options),
            principal,
        ),
        build_records_router(RecordsEndpoint(DynamicService(desk.db, desk.registry), 1_000), principal),
    ]
    async with serving(*routers) as made:
        yield made


async def test_dynamic_options_have_the_contracts_shape(desk: Desk, client: httpx2.AsyncClient) -> None:
    acme = await desk.add("Customer", name="Acme")
    reply = await client.get("/options/tickets", params={"field": "customer_id"})
    assert reply.status_code == 200
    assert reply.json() == {
        "success": True,
        "data": [{"id": str(acme), "value": str(acme), "label": "Acme", "name": "Acme"}],
        "type": "dynamic",
        "meta": {"type": "dynamic", "count": 1},
    }


async def test_static_options_have_the_contracts_shape(client: httpx2.AsyncClient) -> None:
    body = (await client.get("/options/tickets", params={"field": "status", "q": "all"})).json()
    assert body == {
        "success": True,
        "data": [{"id": "done", "value": "done", "label": "All done", "name": "All done", "icon": "check"}],
        "type": "static",
        "meta": {"type": "static", "count": 1},
    }


async def test_search_has_the_contracts_shape(desk: Desk, client: httpx2.AsyncClient) -> None:
    acme = await desk.add("Customer", name="Acme", description="Anvils")
    await desk.add("Customer", name="Other")
    expected = {"id": str(acme), "value": str(acme), "label": "Acme", "name": "Acme", "description": "Anvils"}
    for parameter in ("q", "search"):
        reply = await client.get("/search/customers", params={parameter: "ACM"})
        assert reply.json() == {"success": True, "data": [expected], "meta": {"count": 1}}


@pytest.mark.parametrize("root", ["/data/tickets", "/data/tickets/me", "/dynamic/tickets"])
async def test_facets_have_the_contracts_shape(desk: Desk, client: httpx2.AsyncClient, root: str) -> None:
    for status, count in (("open", 1), ("open", 2), ("done", 3)):
        await desk.add("tickets", title="t", status=status, count=count)
    reply = await client.get(f"{root}/facets", params={"field": "status", "f_count": "gte:2"})
    assert reply.json() == {
        "success": True,
        "data": [
            {"value": "done", "label": "All done", "count": 1, "icon": "check"},
            {"value": "open", "label": "models.tickets.options.open", "count": 1, "color": "green"},
        ],
        "meta": {"count": 2},
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/options/nothing", 404),
        ("/options/tickets?field=nothing", 404),
        ("/options/tickets?field=currency", 501),
        ("/options/tickets?limit=x", 400),
        ("/search/nothing", 404),
        ("/search/tickets?q=%00", 400),
        ("/search/tickets?q=%ff", 400),
        ("/data/tickets/facets", 400),
        ("/data/tickets/facets?field=nothing", 404),
        ("/data/tickets/facets?field=note", 400),
        ("/metadata/table/nothing", 404),
        ("/metadata/modal/nothing", 404),
        ("/metadata/nothing", 404),
    ],
)
async def test_what_cannot_be_answered_has_its_status(client: httpx2.AsyncClient, path: str, status: int) -> None:
    reply = await client.get(path)
    assert (reply.status_code, reply.json()["success"]) == (status, False)


@pytest.mark.parametrize(
    "path",
    [
        "/options/tickets",
        "/search/tickets",
        "/data/tickets/facets?field=status",
        "/metadata/table/tickets",
        "/metadata/modal/tickets",
        "/metadata/tickets",
    ],
)
async def test_each_route_asks_for_the_right_to_read(client: httpx2.AsyncClient, path: str) -> None:
    reply = await client.get(path, headers={"role": "agent"})
    assert reply.status_code == 403
    assert reply.json()["message"] == 'permission denied: missing capability "tickets.read"'


async def test_metadata_of_one_model_together_and_apart(client: httpx2.AsyncClient) -> None:
    both = (await client.get("/metadata/tickets")).json()["data"]
    assert (await client.get("/metadata/table/tickets")).json()["data"] == both["table"]
    assert (await client.get("/metadata/modal/tickets")).json()["data"] == both["modal"]
    assert both["table"]["title"] == "Tickets"
    assert "token" not in [column["key"] for column in both["table"]["columns"]]
    by_key_and_table = [(await client.get(f"/metadata/table/{name}")).json() for name in ("Customer", "customers")]
    assert by_key_and_table[0] == by_key_and_table[1]


async def test_texts_follow_accept_language(client: httpx2.AsyncClient) -> None:
    async def first_option(language: str) -> tuple[str, str]:
        reply = await client.get("/metadata/table/tickets", headers={"Accept-Language": language})
        status = next(column for column in reply.json()["data"]["columns"] if column["key"] == "status")
        return status["options"][0]["label"], reply.headers["content-language"]

    assert await first_option("es-MX,en;q=0.5") == ("Abierto", "es")
    assert await first_option("fr") == ("Open", "en")


async def test_all_metadata_is_served_once_and_then_not_modified(
    client: httpx2.AsyncClient, metadata: MetadataService
) -> None:
    first = await client.get("/metadata/all")
    body = first.json()["data"]
    assert sorted(body["tables"]) == sorted(body["modals"]) == ["Customer", "cities", "tickets"]
    assert first.headers["etag"] == f'"{body["version"]}"'
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}', "*"):
        again = await client.get("/metadata/all", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    metadata.invalidate()
    changed = await client.get("/metadata/all", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["data"]["version"] != body["version"]


async def test_all_metadata_is_what_the_organization_has_and_the_caller_may_read(client: httpx2.AsyncClient) -> None:
    async def models(**headers: str) -> tuple[list[str], str]:
        reply = await client.get("/metadata/all", headers=headers)
        return sorted(reply.json()["data"]["tables"]), reply.headers["etag"]

    mine, my_tag = await models()
    theirs, their_tag = await models(of="globex")
    agents, agents_tag = await models(role="agent")
    assert (mine, theirs, agents) == (["Customer", "cities", "tickets"], ["Customer", "tickets"], ["Customer"])
    assert len({my_tag, their_tag, agents_tag}) == 3
