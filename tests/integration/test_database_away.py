"""The database is away and comes back: every route says so or answers from memory, none breaks, and all serve again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests import workshop
from tests.arrivals import PATIENCE
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.database_proxy import DatabaseProxy, database_proxy
from tests.guests.script import host, script

from metacore.ids import new_uuid


@pytest.fixture
async def proxy(database_urls: DatabaseUrls) -> AsyncIterator[DatabaseProxy]:
    async with database_proxy(database_urls) as opened:
        yield opened


@pytest.fixture
async def plane(proxy: DatabaseProxy) -> AsyncIterator[Plane]:
    async with control_plane(proxy.urls) as opened:
        await workshop.install(opened, opened.ada)
        yield opened


FROM_MEMORY = {
    "/healthz",
    "/metrics",
    "/api/permissions/me",
    "/api/metadata/all",
    "/api/metacore/navigation",
    "/api/metacore/manifests",
    "/api/metacore/catalog",
    "/api/metacore/mode",
    "/api/metacore/tools",
}
"""What answers without the database, of the routes that need no name in their path."""


def requests_of(openapi: dict[str, Any], row: str) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, with a row, a model and an addon that are there."""
    for path, methods in openapi["paths"].items():
        named = path.replace("{id}", row).replace("{model}", "orders").replace("{addon_key}", "workshop")
        named = re.sub(r"\{[a-z_]*(id|installation)\}", str(new_uuid()), named)
        for method in methods.keys() - {"parameters"}:
            yield method.upper(), re.sub(r"\{[^}]*\}", "close", named)


async def test_every_route_says_that_the_database_is_away(plane: Plane, proxy: DatabaseProxy) -> None:
    order = await workshop.order(plane, plane.ada)
    openapi = (await plane.client.get("/openapi.json", headers=plane.ada)).json()
    proxy.cut()
    away = set()
    for method, path in requests_of(openapi, order):
        body: dict[str, Any] = {"json": {"title": "two"}} if method in ("POST", "PUT", "PATCH") else {}
        reply = await plane.client.request(method, path, headers=plane.ada, timeout=60, **body)
        assert reply.status_code < 500 or reply.status_code == 503, (method, path, reply.text)
        if reply.status_code == 503 and path != "/readyz":
            assert reply.json()["code"] in ("database_unreachable", "outcome_unknown"), (method, path, reply.text)
            away.add(path)
    readable = {path for path, methods in openapi["paths"].items() if "get" in methods and "{" not in path}
    assert readable - away == FROM_MEMORY | {"/readyz"}
    assert away >= {f"/api/dynamic/orders/{order}", f"/api/dynamic/Order/{order}/action/close", "/api/options/orders"}
    login = {"email": "ada@example.com", "password": "not the one of ada"}
    assert (await plane.client.post("/api/auth/login", json=login)).json()["code"] == "database_unreachable"
    ready = (await plane.client.get("/readyz")).json()
    assert ready["checks"]["database"].startswith("failed")

    proxy.mend()
    async with asyncio.timeout(PATIENCE):
        while (await plane.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - others repair it.
            await asyncio.sleep(0.05)
    for path in readable:
        assert (await plane.client.get(path, headers=plane.ada)).status_code == 200, path
    assert (await workshop.act(plane, plane.ada, "close", order, **script())).status_code == 200


async def test_an_action_whose_commit_nobody_answered_may_have_happened(plane: Plane, proxy: DatabaseProxy) -> None:
    order = await workshop.order(plane, plane.ada)
    change = host("db_exec", "UPDATE orders SET status = $1 WHERE id = $2", ["done", {"$uuid": order}])
    proxy.cut_at(b"UPDATE orders")
    lost = await workshop.act(plane, plane.ada, "close", order, **script(change))
    assert (lost.status_code, lost.json()["code"]) == (503, "database_unreachable"), lost.text
    proxy.mend()
    proxy.cut_at(b"UPDATE orders", b"COMMIT")
    unknown = await workshop.act(plane, plane.ada, "close", order, **script(change))
    assert (unknown.status_code, unknown.json()["code"]) == (503, "outcome_unknown"), unknown.text
    proxy.mend()
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    assert row["status"] in ("open", "done")
