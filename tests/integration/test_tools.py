"""Tools of addons over HTTP: what is listed for whom, which parameters pass, and how each kind is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest
from tests import workshop
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.outside import Received, outside, reply

from metacore.addons.handlers.compiled import FunctionCall
from metacore.egress.broker import EgressConfig

BASE = "/api/metacore/tools"
PASSWORD = "correct horse battery"
ECHO: dict[str, Any] = {
    "id": "look",
    "name": "Look",
    "description": "Looks",
    "category": "orders",
    "input_schema": [
        {"name": "city", "type": "string", "required": True},
        {"name": "days", "type": "int", "default": 3},
    ],
    "trigger_keywords": ["weather"],
    "handler": {"type": "wasm", "function": "echo"},
}
TOOLS = [
    ECHO,
    {"id": "echo", "description": "by its name"},
    {"id": "guarded", "permission": "reports.run", "handler": {"type": "compiled", "function": "guarded"}},
    {"id": "hangs", "timeout": 1, "handler": {"type": "compiled", "function": "hangs"}},
    {"id": "orphan"},
]


@asynccontextmanager
async def with_tools(urls: DatabaseUrls, tools: list[dict[str, Any]], **changes: Any) -> AsyncIterator[Plane]:
    async with control_plane(urls, **changes) as plane:
        manifest = workshop.workshop_manifest(contributions={"tools": tools})
        await workshop.install(plane, plane.ada, manifest=manifest)
        yield plane


async def execute(plane: Plane, tool: str, params: Any = None, headers: Headers | None = None) -> httpx2.Response:
    body = {"addon_key": "workshop", "tool_id": tool, "params": params}
    return await plane.client.post(f"{BASE}/execute", json=body, headers=headers or plane.ada)


async def agent(plane: Plane, *capabilities: str) -> Headers:
    made = await plane.client.post(
        "/api/users",
        json={"name": "bob", "email": "bob@example.com", "password": PASSWORD, "role": "agent"},
        headers=plane.ada,
    )
    assert made.status_code == 201, made.text
    for capability in capabilities:
        assert (await plane.client.put(f"/api/permissions/roles/agent/{capability}", headers=plane.ada)).is_success
    logged_in = await plane.client.post("/api/auth/login", json={"email": "bob@example.com", "password": PASSWORD})
    return {"Authorization": f"Bearer {logged_in.json()['data']['token']}"}


async def test_tools_are_listed_without_how_they_are_run(database_urls: DatabaseUrls) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        listed = await plane.client.get(BASE, headers=plane.ada)
        assert listed.status_code == 200
        assert "X-Metacore-Kernel-Version" in listed.headers
        tools = {tool["id"]: tool for tool in listed.json()["data"]}
        assert list(tools) == ["look", "echo", "guarded", "hangs", "orphan"]
        look = tools["look"]
        assert (look["addon_key"], look["name"], look["trigger_keywords"]) == ("workshop", "Look", ["weather"])
        assert look["input_schema"]["required"] == ["city"]
        assert not {"handler", "endpoint", "method", "timeout"} & look.keys()
        assert (await plane.client.get(BASE)).status_code == 401
        assert (await plane.client.get(BASE, headers=plane.eve)).json()["data"] == []


async def test_a_guest_gets_the_parameters_and_who_asked(database_urls: DatabaseUrls) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        answer = await execute(plane, "look", {"city": "Lima"})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["meta"] == {"addon": "workshop", "tool": "look", "trigger": "wasm"}
        seen = body["data"]
        assert (seen["tool"], seen["params"]) == ("look", {"city": "Lima", "days": 3})
        assert seen["user"]["email"] == "ada@example.com"
        by_name = await execute(plane, "echo", {"any": [1]})
        assert by_name.json()["data"]["params"] == {"any": [1]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_input"),
        ({"addon_key": "workshop"}, 400, "invalid_input"),
        ({"addon_key": 5, "tool_id": "look"}, 400, "invalid_input"),
        ({"addon_key": "workshop", "tool_id": "look", "params": []}, 400, "invalid_input"),
        ({"addon_key": "workshop", "tool_id": "look"}, 422, "validation"),
        ({"addon_key": "workshop", "tool_id": "look", "params": {"city": 1}}, 422, "validation"),
        ({"addon_key": "workshop", "tool_id": "look", "params": {"city": "a", "x": 1}}, 422, "validation"),
        ({"addon_key": "workshop", "tool_id": "nothing"}, 404, "unknown_tool"),
        ({"addon_key": "nowhere", "tool_id": "look"}, 404, "unknown_addon"),
        ({"addon_key": "workshop", "tool_id": "orphan"}, 422, "no_handler"),
    ],
)
async def test_a_bad_request_runs_nothing(
    database_urls: DatabaseUrls, body: dict[str, Any], status: int, code: str
) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        answer = await plane.client.post(f"{BASE}/execute", json=body, headers=plane.ada)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        if code == "validation":
            assert {problem["field"] for problem in answer.json()["errors"]} <= {"city", "x"}


async def test_another_organization_has_none_of_it(database_urls: DatabaseUrls) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        answer = await execute(plane, "look", {"city": "Lima"}, plane.eve)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_addon")
        async with plane.working():
            await plane.client.post("/api/metacore/installations/workshop/disable", headers=plane.ada)
        assert (await execute(plane, "look", {"city": "Lima"})).status_code == 404
        assert (await plane.client.get(BASE, headers=plane.ada)).json()["data"] == []


async def test_a_user_runs_what_was_granted_and_sees_no_more(database_urls: DatabaseUrls) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        bob = await agent(plane, "workshop.look", "reports.run")

        async def guarded(call: FunctionCall) -> Any:
            assert call.principal is not None
            return {"role": call.principal.role}

        plane.app.functions.register("workshop", "guarded", guarded)
        listed = (await plane.client.get(BASE, headers=bob)).json()["data"]
        assert [tool["id"] for tool in listed] == ["look", "guarded"]
        assert (await execute(plane, "look", {"city": "Lima"}, bob)).status_code == 200
        assert (await execute(plane, "guarded", {}, bob)).json()["data"] == {"role": "agent"}
        refused = await execute(plane, "echo", {}, bob)
        assert refused.status_code == 403
        assert "workshop.echo" in refused.json()["message"]


async def test_a_tool_that_hangs_ends(database_urls: DatabaseUrls) -> None:
    async with with_tools(database_urls, TOOLS) as plane:
        ended = []

        async def hangs(call: FunctionCall) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(call.function)

        plane.app.functions.register("workshop", "hangs", hangs)
        answer = await execute(plane, "hangs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "timeout")
        assert ended == ["hangs"]


async def test_an_endpoint_is_called_with_its_method_and_signed(database_urls: DatabaseUrls) -> None:
    def answer(got: Received) -> bytes:
        if got.path == "/no":
            return reply(422, b'{"success": false, "error": {"code": "late", "message": "too late"}}')
        return reply(body=orjson.dumps({"success": True, "data": {"path": got.path, "method": got.method}}))

    async with outside(answer) as server:
        tools = [
            {"id": "post", "endpoint": server.url("/v1/look")},
            {"id": "get", "endpoint": server.url("/v1/look?fixed=1"), "method": "GET"},
            {"id": "no", "endpoint": server.url("/no")},
            {"id": "inner", "endpoint": "http://169.254.169.254/latest"},
        ]
        egress = EgressConfig.parse(["127.0.0.0/8"])
        async with with_tools(database_urls, tools, egress=egress) as plane:
            posted = await execute(plane, "post", {"city": "Lima"})
            assert posted.json()["data"] == {"path": "/v1/look", "method": "POST"}
            got = await execute(plane, "get", {"city": "São Paulo", "exact": True})
            assert got.json()["data"]["path"] == "/v1/look?fixed=1&city=S%C3%A3o+Paulo&exact=true"
            declined = await execute(plane, "no")
            assert (declined.status_code, declined.json()["error"]) == (422, {"code": "late", "message": "too late"})
            blocked = await execute(plane, "inner")
            assert (blocked.status_code, blocked.json()["code"]) == (403, "blocked_address")
    first, second, _ = server.received
    assert orjson.loads(first.body)["params"] == {"city": "Lima"}
    assert second.body == b""
    for received in (first, second):
        assert received.headers["x-metacore-signature"].startswith("sha256=")
        assert received.headers["x-metacore-event"] in ("post", "get")


async def test_an_endpoint_elsewhere_needs_its_grant_in_enforce(database_urls: DatabaseUrls) -> None:
    async with outside(lambda _: reply(body=b"{}")) as server:
        tools = [{"id": "post", "endpoint": server.url("/v1/look")}]
        egress = EgressConfig.parse(["127.0.0.0/8"])
        async with with_tools(database_urls, tools, egress=egress, enforce=True) as plane:
            answer = await execute(plane, "post")
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert server.received == []
