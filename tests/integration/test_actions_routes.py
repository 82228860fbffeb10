"""Contract 7 over HTTP: who may run an action, on what, with which input, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.applications import PASSWORD
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.guests.script import TRAP, host, reply, script, step
from tests.workshop import act

from metacore.addons.handlers.compiled import FunctionCall

NOT_THERE = "0b2c9d81-3637-4ad5-991d-a515cac0a090"


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        await workshop.install(opened, opened.ada)
        yield opened


async def test_the_addon_gets_the_row_the_input_and_the_user(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada, title="chair", pin="4711")
    answer = await act(plane, plane.ada, "rename", order, title="table", more=[1])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["meta"] == {"model": "Order", "action": "rename", "trigger": "wasm"}
    asked = body["data"]
    assert asked["input"] == {"title": "table", "count": 4, "more": [1]}
    assert (asked["action"], asked["model"], asked["table"], asked["id"]) == ("rename", "Order", "orders", order)
    assert (asked["row"]["title"], asked["row"]["number"]) == ("chair", "A-000001")
    assert "pin" not in asked["row"]
    me = (await plane.client.get("/api/auth/me", headers=plane.ada)).json()["data"]["user"]
    assert asked["user"] == {"id": me["id"], "email": "ada@example.com", "role": "owner"}
    assert asked["organization_id"] == me["organization_id"]


@pytest.mark.parametrize(
    "path",
    ["/api/dynamic/Order/{id}/action/run", "/api/data/orders/me/{id}/action/run", "/api/data/orders/{id}/action/run"],
)
async def test_every_spelling_of_the_route_answers(plane: Plane, path: str) -> None:
    order = await workshop.order(plane, plane.ada)
    collection = path.replace("/{id}", "").replace("/run", "/tally")
    for url in (path.format(id=order), collection):
        answer = await plane.client.post(url, json=script(reply({"success": True, "data": 1})), headers=plane.ada)
        assert (answer.status_code, answer.json()["data"]) == (200, 1), (url, answer.text)


async def test_what_cannot_be_run_says_why(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    hers = plane.eve
    cases: list[tuple[Headers, str, str | None, dict[str, Any], int, str]] = [
        (plane.ada, "absent", order, {}, 404, "unknown_action"),
        (plane.ada, "run", NOT_THERE, {}, 404, "unknown_row"),
        (plane.ada, "run", "7", {}, 400, "invalid_id"),
        (plane.ada, "run", None, {}, 404, "unknown_action"),
        (plane.ada, "tally", order, {}, 404, "unknown_action"),
        (hers, "run", order, {}, 404, "unknown_model"),
        ({}, "run", order, {}, 401, "unauthenticated"),
        (plane.ada, "link", order, {}, 501, "no_handler"),
        (plane.ada, "stamp", order, {}, 404, "unknown_function"),
        (plane.ada, "rename", order, {}, 422, "validation"),
        (plane.ada, "rename", order, {"title": "ab"}, 422, "validation"),
        (plane.ada, "rename", order, {"title": "ABC"}, 422, "validation"),
        (plane.ada, "rename", order, {"title": 5}, 422, "validation"),
        (plane.ada, "rename", order, {"title": "abc", "count": "4"}, 422, "validation"),
        (plane.ada, "rename", order, {"title": "abc", "kind": "b"}, 422, "validation"),
        (plane.ada, "rename", order, {"title": "abc", "kind": ["a", {}]}, 422, "validation"),
    ]
    for headers, key, row, given, status, code in cases:
        answer = await act(plane, headers, key, row, **given)
        body = answer.json()
        assert (answer.status_code, body["code"]) == (status, code), (key, row, given, answer.text)
        assert body["success"] is False
        assert body["message"]
    problems = (await act(plane, plane.ada, "rename", order, title="", count=True)).json()["errors"]
    assert [(problem["field"], problem["code"]) for problem in problems] == [("title", "required"), ("count", "type")]
    for content in (b"[1]", b"{", b'"x"'):
        url = f"/api/dynamic/orders/{order}/action/run"
        assert (await plane.client.post(url, content=content, headers=plane.ada)).status_code == 400
    empty = await plane.client.post(f"/api/dynamic/orders/{order}/action/nothing", headers=plane.ada)
    assert empty.json() == {
        "success": True,
        "data": None,
        "meta": {"model": "Order", "action": "nothing", "trigger": "noop"},
    }
    assert (await plane.client.get(f"/api/dynamic/orders/{order}/action/run", headers=plane.ada)).status_code == 405


async def test_an_addon_that_declines_or_breaks_is_422_with_its_words(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    declines = reply({"success": False, "error": {"code": "sold", "message": "sold already"}, "data": {"to": "x"}})
    answer = await act(plane, plane.ada, "run", order, **script(declines))
    assert answer.status_code == 422
    assert answer.json() == {
        "success": False,
        "message": "sold already",
        "code": "sold",
        "error": {"code": "sold", "message": "sold already"},
        "data": {"to": "x"},
        "meta": {"model": "Order", "action": "run", "trigger": "wasm"},
    }
    broken = await act(plane, plane.ada, "run", order, **script(step(TRAP)))
    assert (broken.status_code, broken.json()["error"]["code"]) == (422, "runtime_error")
    garbage = await act(plane, plane.ada, "run", order, script="zz")
    assert garbage.status_code == 422


async def test_a_user_needs_the_action_s_own_capability_and_no_other(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    made = await plane.client.post(
        "/api/users",
        json={"name": "Bob", "email": "bob@example.com", "password": PASSWORD, "role": "clerk"},
        headers=plane.ada,
    )
    assert made.status_code == 201, made.text
    login = await plane.client.post("/api/auth/login", json={"email": "bob@example.com", "password": PASSWORD})
    bob = {"Authorization": f"Bearer {login.json()['data']['token']}"}
    refused = await act(plane, bob, "nothing", order)
    assert refused.status_code == 403
    assert refused.json()["message"] == 'permission denied: missing capability "order.nothing"'
    granted = await plane.client.put("/api/permissions/roles/clerk/order.nothing", headers=plane.ada)
    assert granted.is_success, granted.text
    assert (await act(plane, bob, "nothing", order)).status_code == 200
    assert (await act(plane, bob, "run", order)).status_code == 403
    assert (await plane.client.get(f"/api/dynamic/orders/{order}", headers=bob)).status_code == 403


async def test_a_state_that_is_not_the_wanted_one_refuses(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada, status="done")
    answer = await act(plane, plane.ada, "close", order, **script(reply(1)))
    assert (answer.status_code, answer.json()["code"]) == (422, "requires_state")
    assert "open" in answer.json()["message"]


async def test_functions_of_the_host_answer_as_actions(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada, title="chair")

    async def stamp(call: FunctionCall) -> Any:
        assert call.principal is not None
        return {"stamped": call.payload["row"]["title"], "by": call.principal.email}

    plane.app.functions.register("workshop", "stamp", stamp)
    answer = (await act(plane, plane.ada, "stamp", order)).json()
    assert answer["data"] == {"stamped": "chair", "by": "ada@example.com"}
    assert answer["meta"]["trigger"] == "compiled"


async def test_in_enforce_an_ungranted_operation_is_403_with_the_envelope(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls, enforce=True) as plane:
        await workshop.install(plane, plane.ada)
        order = await workshop.order(plane, plane.ada)
        tells = await act(plane, plane.ada, "run", order, **script(host("event_emit", "other.thing", {}), step(TRAP)))
        assert tells.status_code == 403
        body = tells.json()
        assert body["error"]["code"] == "forbidden"
        assert "event:emit" in body["error"]["message"]
        assert body["meta"] == {"model": "Order", "action": "run", "trigger": "wasm"}
        passed_on = {"success": False, "error": {"code": "forbidden", "message": "not granted"}}
        assert (await act(plane, plane.ada, "run", order, **script(reply(passed_on)))).status_code == 403
        # A guest that copes with the refusal is not punished for having asked.
        copes = await act(plane, plane.ada, "run", order, **script(host("event_emit", "other.thing", {}), reply(1)))
        assert copes.status_code == 200


@pytest.mark.parametrize("enforce", [False, True], ids=["shadow", "enforce"])
async def test_an_action_on_the_model_of_another_addon_needs_to_read_it(
    database_urls: DatabaseUrls, enforce: bool
) -> None:
    def helper(key: str, *grants: dict[str, str]) -> dict[str, Any]:
        manifest = workshop.workshop_manifest(key=key, name=key, models=[], capabilities=list(grants))
        action = {"key": key, "target_model": "workshop.Order", "handler": {"type": "wasm", "function": "echo"}}
        return manifest | {"contributions": {"actions": [action]}}

    async with control_plane(database_urls, enforce=enforce) as plane:
        await workshop.install(plane, plane.ada)
        await workshop.install(plane, plane.ada, manifest=helper("peeker"))
        may = {"kind": "db:read", "target": "addon_workshop.orders"}
        await workshop.install(plane, plane.ada, manifest=helper("reader", may))
        order = await workshop.order(plane, plane.ada, title="chair")
        reads = await act(plane, plane.ada, "reader", order)
        assert (reads.status_code, reads.json()["data"]["row"]["title"]) == (200, "chair"), reads.text
        peeks = await act(plane, plane.ada, "peeker", order)
        if enforce:
            assert (peeks.status_code, peeks.json()["error"]["code"]) == (403, "forbidden"), peeks.text
            assert peeks.json()["meta"]["action"] == "peeker"
        else:
            assert peeks.status_code == 200, peeks.text
        text = plane.app.metrics.render().decode()
        mode = "enforce" if enforce else "shadow"
        assert f'violations_total{{addon="peeker",kind="db:read",mode="{mode}"}} 1.0' in text
        assert 'addon="reader",kind' not in text.split("violations_total", 1)[1].split("# HELP", 1)[0]


async def test_the_description_shows_the_actions_that_the_caller_may_run(plane: Plane) -> None:
    document = (await plane.client.get("/openapi.json", headers=plane.ada)).json()
    rename = document["paths"]["/api/dynamic/Order/{id}/action/rename"]["post"]
    schema = rename["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["title"]
    assert schema["properties"]["kind"]["enum"] == ["a"]
    assert "/api/dynamic/Order/action/tally" in document["paths"]
    assert "/api/dynamic/Order/{id}/action/link" not in document["paths"]
    anonymous = (await plane.client.get("/openapi.json")).json()
    assert "/api/dynamic/Order/{id}/action/rename" not in anonymous["paths"]
    assert "/api/dynamic/{model}/{id}/action/{key}" in anonymous["paths"]
