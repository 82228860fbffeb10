"""The description of the API: a valid document that shows everybody what they may see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from tests.applications import SECRET, new_app, register, started
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.tickets import make_bundle, signed, tickets_manifest
from tests.zoo import zoo_bundle

from metacore import App, AppConfig, MemoryPermissionStore

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    """Ada's organization has tickets and the zoo, Eve's only the zoo."""
    async with control_plane(database_urls) as opened, opened.working():
        for headers in (opened.ada, opened.eve):
            assert (await opened.install(headers, *signed(zoo_bundle()), key="zoo")).status_code == 201
        assert (await opened.install(opened.ada)).status_code == 201
        yield opened


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method, path, operation, [*item.get("parameters", []), *operation.get("parameters", [])]


def assert_valid(document: dict[str, Any]) -> None:
    """What OpenAPI 3.1 asks of a document, as far as this one uses it."""
    assert document["openapi"].startswith("3.1.")
    assert document["info"].keys() >= {"title", "version"}
    components = document["components"]
    for section in components.values():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in section)
    for node in walk(document):
        reference = node.get("$ref")
        if isinstance(reference, str):
            target: Any = document
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
            assert isinstance(target, dict)
    seen: set[str] = set()
    for method, path, operation, parameters in operations(document):
        assert method in METHODS
        assert path.startswith("/")
        assert operation["operationId"] not in seen, operation["operationId"]
        seen.add(operation["operationId"])
        assert operation["summary"], path
        assert operation["tags"], path
        assert operation["responses"], path
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5](\d\d|XX)|default", status)
            assert response["description"]
        places = [(parameter["name"], parameter["in"]) for parameter in parameters]
        assert len(places) == len(set(places)), path
        assert all(parameter["schema"] is not None for parameter in parameters)
        templated = set(re.findall(r"\{(\w+)\}", path))
        assert {name for name, place in places if place == "path"} == templated, path
        assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")
        for requirement in operation.get("security", []):
            assert requirement.keys() <= components["securitySchemes"].keys()
        if "requestBody" in operation:
            assert method != "get"
            assert operation["requestBody"]["content"]


async def test_the_document_is_valid_for_everybody(plane: Plane) -> None:
    for headers in ({}, plane.ada, plane.eve):
        document = (await plane.client.get("/openapi.json", headers=headers)).json()
        assert_valid(document)
        assert "HTTPValidationError" not in str(document)
        assert all("4XX" in operation["responses"] for _, _, operation, _ in operations(document))


async def test_a_caller_sees_the_models_of_the_own_organization_only(plane: Plane) -> None:
    async def paths(headers: dict[str, str]) -> set[str]:
        document = (await plane.client.get("/openapi.json", headers=headers)).json()
        return {path.split("/")[3] for path in document["paths"] if path.startswith("/api/dynamic/")} - {"{model}"}

    assert await paths({}) == set()
    assert await paths(plane.eve) == {"Creature"}
    assert await paths(plane.ada) == {"Creature", "Ticket", "Comment", "TicketKind"}
    await plane.client.post("/api/metacore/installations/tickets/disable", headers=plane.ada)
    assert await paths(plane.ada) == {"Creature"}
    anonymous = (await plane.client.get("/openapi.json")).text
    assert "Creature" not in anonymous
    assert "Ticket" not in anonymous
    assert (await plane.client.get("/openapi.json", headers={"Authorization": "Bearer no"})).status_code == 401
    cached = (await plane.client.get("/openapi.json", headers=plane.ada)).headers["cache-control"]
    assert cached == "private, no-cache"


async def test_rows_are_described_as_they_are_read_and_written(plane: Plane) -> None:
    document = (await plane.client.get("/openapi.json", headers=plane.ada)).json()
    schemas = document["components"]["schemas"]
    row, create, update = (schemas[f"zoo.Creature{kind}"] for kind in ("", ".create", ".update"))
    assert "pin" not in row["properties"]
    assert create["properties"]["pin"]["writeOnly"] is True
    assert row["properties"].keys() >= {"id", "organization_id", "created_at", "updated_at", "deleted_at", "name"}
    assert not {"id", "organization_id", "created_at"} & create["properties"].keys()
    assert (create["required"], "required" in update) == (["name"], False)
    assert row["properties"]["name"] == {"type": "string", "maxLength": 40}
    assert row["properties"]["kind"]["enum"] == ["cat", None]
    assert row["properties"]["weight"]["type"] == ["number", "null"]
    made = (await plane.client.post("/api/dynamic/Creature", json={"name": "Rex"}, headers=plane.ada)).json()["data"]
    assert made.keys() == row["properties"].keys()
    listing = document["paths"]["/api/dynamic/Creature"]["get"]
    assert {parameter["name"] for parameter in listing["parameters"]} >= {"page", "per_page", "sortBy", "f_name"}


async def test_labels_come_in_the_readers_language(database_urls: DatabaseUrls) -> None:
    manifest = tickets_manifest()
    ticket = manifest["models"][0]
    ticket["label"] = "models.tickets.title"
    ticket["columns"][0] |= {"label": "models.tickets.subject", "description": "models.tickets.hint"}
    texts = {
        "en": {"models.tickets.title": "Issue", "models.tickets.subject": "Subject", "models.tickets.hint": "In short"},
        "es": {"models.tickets.title": "Incidencia", "models.tickets.hint": "En breve"},
    }
    async with control_plane(database_urls, catalogs=texts) as plane, plane.working():
        assert (await plane.install(plane.ada, *signed(make_bundle(manifest)))).status_code == 201
        for language, tag, hint in (("", "Issue", "In short"), ("es-MX, en;q=0.5", "Incidencia", "En breve")):
            reply = await plane.client.get("/openapi.json", headers={**plane.ada, "Accept-Language": language})
            document = reply.json()
            listing = document["paths"]["/api/dynamic/Ticket"]["get"]
            assert listing["tags"] == [tag]
            assert {"name": tag} in document["tags"]
            schema = document["components"]["schemas"]["tickets.Ticket"]
            assert schema["properties"]["title"]["description"] == hint
            described = {parameter["name"]: parameter["description"] for parameter in listing["parameters"]}
            assert described["f_title"].startswith("Filter Subject:")
            assert "models." not in str(document["paths"]["/api/dynamic/Ticket"])


async def test_a_caller_sees_only_models_that_may_be_read(tmp_path: Path) -> None:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    store = MemoryPermissionStore({})
    new_app(f"sqlite:///{tmp_path / 'a.db'}", permission_store=store).mount(web)
    async with started(web) as client:
        ada = await register(client, "ada@example.com")
        user = {"name": "Bob", "email": "bob@example.com", "password": "correct horse battery", "role": "agent"}
        await client.post("/api/users", json=user, headers=ada)
        login = await client.post("/api/auth/login", json=user)
        bob = {"Authorization": f"Bearer {login.json()['data']['token']}"}
        assert "/api/dynamic/gadgets" in (await client.get("/openapi.json", headers=ada)).json()["paths"]
        assert "/api/dynamic/gadgets" not in (await client.get("/openapi.json", headers=bob)).json()["paths"]


async def test_a_model_called_like_a_schema_of_the_kernel_takes_nothing_away(tmp_path: Path) -> None:
    from tests.applications import Gadget

    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    config = AppConfig(database=f"sqlite:///{tmp_path / 'a.db'}", jwt_secret=SECRET)
    App(config).register_model("LoginBody", lambda: Gadget).mount(web)
    async with started(web) as client:
        ada = await register(client, "ada@example.com")
        document = (await client.get("/openapi.json", headers=ada)).json()
        assert_valid(document)
        assert "password" in document["components"]["schemas"]["LoginBody"]["properties"]
        assert "price" in document["components"]["schemas"]["kernel.LoginBody"]["properties"]


async def test_the_hosts_routes_and_title_are_part_of_it(tmp_path: Path) -> None:
    web = FastAPI(title="Shop", version="7.1", docs_url=None, redoc_url=None, openapi_url=None)
    api = new_app(f"sqlite:///{tmp_path / 'a.db'}").mount(web, prefix="/v1")

    @api.get("/cheapest")
    async def cheapest() -> dict[str, str]:
        return {}

    async with started(web) as client:
        document = (await client.get("/openapi.json")).json()
        assert (document["info"]["title"], document["info"]["version"]) == ("Shop", "7.1")
        assert document["paths"]["/v1/cheapest"]["get"]["security"] == [{"HTTPBearer": []}]
        assert "/v1/auth/login" in document["paths"]
        assert "servers" not in document


async def test_below_another_path_the_document_says_so(tmp_path: Path) -> None:
    inner, outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), FastAPI()
    new_app(f"sqlite:///{tmp_path / 'a.db'}").mount(inner)
    outer.mount("/sub", inner)
    web, router = FastAPI(), APIRouter()
    new_app(f"sqlite:///{tmp_path / 'b.db'}").mount(router)
    web.include_router(router, prefix="/sub")
    async with inner.router.lifespan_context(inner), started(outer) as mounted, started(web) as included:
        for client in (mounted, included):
            document = (await client.get("/sub/openapi.json")).json()
            assert document["servers"] == [{"url": "/sub"}]
            ada = await register(client, "ada@example.com", "/sub/api")
            assert "/api/dynamic/gadgets" in (await client.get("/sub/openapi.json", headers=ada)).json()["paths"]
            reply = await client.get("/sub/api/dynamic/gadgets", headers=ada)
            assert (reply.status_code, reply.json()["data"]) == (200, [])


async def test_the_page_and_all_that_it_loads_come_from_here(tmp_path: Path) -> None:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    new_app(f"sqlite:///{tmp_path / 'a.db'}").mount(web)
    async with started(web) as client:
        page = await client.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) >= 6
        for link in links:
            assert "//" not in link
            reply = await client.get(f"/{link}")
            assert (reply.status_code, len(reply.content) > 100) == (200, True), link
            assert reply.headers["x-content-type-options"] == "nosniff"
        for name in ("../openapi.py", "%2e%2e%2fopenapi.py", "index.html", "login.js/", "LOGIN.JS"):
            assert (await client.get(f"/docs/assets/{name}", follow_redirects=False)).status_code in (307, 404)
