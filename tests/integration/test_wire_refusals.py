"""What a client is told when it asks wrongly: what and where, and what would have been right (contract 1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from tests.applications import new_app, register, started

from metacore import HookContext


@pytest.fixture(params=["lane", "router"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The same kernel with the lane in front and without it: the answers are the same."""
    kernel = new_app(f"sqlite:///{tmp_path / 'host.db'}")
    heard: list[str] = []

    async def listen(context: HookContext, values: dict[str, Any]) -> dict[str, Any]:
        heard.append(context.principal.locale)
        return {**values, "name": f"{values['name']} {context.principal.locale}".strip()}

    async def burst(context: HookContext, row: dict[str, Any]) -> None:
        if row["name"] == "Bomb":
            raise RuntimeError("the password is hunter2")

    kernel.hooks.register("before_create", "gadgets", listen)
    kernel.hooks.register("before_delete", "gadgets", burst)
    web = FastAPI()
    if request.param == "lane":
        own = kernel.mount(web)
    else:
        router = APIRouter()
        own = kernel.mount(router)
        web.include_router(router)

    @own.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    async with started(web) as opened:
        opened.headers |= await register(opened, "ada@example.com")
        yield opened


async def test_a_path_that_is_nothing_is_named(tmp_path: Path) -> None:
    web = FastAPI()
    new_app(f"sqlite:///{tmp_path / 'host.db'}").mount(web)
    async with started(web) as client:
        reply = await client.get("/api/dynamik/gadgets")
        assert reply.status_code == 404
        assert reply.json()["message"] == "no route answers GET /api/dynamik/gadgets"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/dynamic/gadgets", "GET, POST"),
        ("POST", "/api/dynamic/gadgets/6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10", "DELETE, GET, PATCH, PUT"),
        ("GET", "/api/auth/login", "POST"),
        ("DELETE", "/api/users/6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10", "GET, PATCH"),
        ("PATCH", "/api/metacore/installations/x/settings", "GET, PUT"),
    ],
)
async def test_a_method_that_a_path_lacks_is_told_which_it_has(
    client: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    reply = await client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert reply.json() == {
        "success": False,
        "message": f"{method} is not possible at {path}: it takes {allowed}",
        "code": "method_not_allowed",
    }


async def test_a_body_that_is_no_object_is_told_so(client: httpx2.AsyncClient) -> None:
    bodies: tuple[dict[str, Any], ...] = ({"json": []}, {"json": "x"}, {"data": {"email": "ada@example.com"}})
    for sent in bodies:
        reply = await client.post("/api/auth/login", **sent)
        assert reply.status_code == 400
        assert reply.json()["message"] == "the body must be a JSON object, sent with Content-Type: application/json"


async def test_no_token_is_not_a_bad_token(client: httpx2.AsyncClient) -> None:
    for path in ("/api/dynamic/gadgets", "/api/auth/me"):
        for header in ("Bearer", "Bearer\t", "Basic YWRhOng=", ""):
            reply = await client.get(path, headers={"Authorization": header})
            assert (path, header, reply.json()["code"]) == (path, header, "unauthenticated")
        assert (await client.get(path, headers={"Authorization": "Bearer x"})).json()["code"] == "invalid_token"


async def test_nul_in_the_query_of_a_row_is_refused(client: httpx2.AsyncClient) -> None:
    row = (await client.post("/api/dynamic/gadgets", json={"name": "Lamp"})).json()["data"]
    reply = await client.get(f"/api/dynamic/gadgets/{row['id']}?x=%00")
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_query")


async def test_every_reply_carries_the_request_id(client: httpx2.AsyncClient) -> None:
    for method, path in (
        ("GET", "/api/dynamic/gadgets"),
        ("GET", "/api/dynamic/nothing"),
        ("GET", "/api/metadata/all"),
        ("POST", "/api/auth/login"),
        ("DELETE", "/api/auth/login"),
        ("GET", "/healthz"),
        ("GET", "/api/broken"),
    ):
        reply = await client.request(method, path, headers={"X-Request-ID": "mine-1"})
        assert (path, reply.headers["x-request-id"]) == (path, "mine-1")
        assert (await client.request(method, path)).headers["x-request-id"] not in ("", "mine-1")


async def test_bodies_beyond_the_limit_are_refused(client: httpx2.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    for path in ("/api/dynamic/gadgets", "/api/auth/login"):
        for content in (b" " * 1_048_577, endless()):
            reply = await client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert (path, reply.status_code, reply.json()["code"]) == (path, 413, "payload_too_large")


async def test_what_fails_inside_stays_inside(client: httpx2.AsyncClient) -> None:
    row = (await client.post("/api/dynamic/gadgets", json={"name": "Bomb"})).json()["data"]
    for method, path in (("DELETE", f"/api/dynamic/gadgets/{row['id']}"), ("GET", "/api/broken")):
        reply = await client.request(method, path)
        assert reply.status_code == 500
        assert reply.json() == {"success": False, "message": "internal error", "code": "internal"}


async def test_a_deleted_row_is_named_as_it_is_stored(client: httpx2.AsyncClient) -> None:
    row = (await client.post("/api/dynamic/gadgets", json={"name": "Lamp"})).json()["data"]
    gone = await client.delete(f"/api/dynamic/gadgets/{row['id'].upper()}")
    assert gone.json() == {"success": True, "data": {"id": row["id"]}}


async def test_hooks_know_the_language_of_the_caller(client: httpx2.AsyncClient) -> None:
    spoken = {"Accept-Language": "es-MX, en;q=0.5"}
    row = (await client.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=spoken)).json()["data"]
    assert row["name"] == "Lamp es-MX"
