"""Code of addons around changes of rows: stage transitions, row hooks of v2, and formulas that a function computes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.factories import principal
from tests.tickets import signed

from metacore.addons.handlers.compiled import FunctionCall
from metacore.bundle.write import write_bundle
from metacore.errors import Refused


def staged_manifest() -> dict[str, Any]:
    """Orders with stages, and code on their moves; a total that a function computes."""
    manifest = workshop.workshop_manifest()
    order = manifest["models"][0]
    order |= {
        "stage_field": "status",
        "stages": ["open", "paid", "done"],
        "transitions": [{"from": "open", "to": "paid"}, {"from": "paid", "to": "done"}],
        "on_transition": [
            {"to": "paid", "set": {"closed_by": "till"}, "do": "compiled:charge", "required": True},
            {"from": "paid", "do": {"type": "compiled", "function": "tell"}},
        ],
        "formulas": [{"target": "total", "tier": 3, "handler": "compiled:total"}],
    }
    return manifest


class Till:
    """Functions of the host, and what they were asked."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.asked: list[dict[str, Any]] = []
        self.refusing = ""
        for name in ("charge", "tell", "total"):
            plane.app.functions.register("workshop", name, getattr(self, name))

    async def charge(self, call: FunctionCall) -> Any:
        self.asked.append(dict(call.payload))
        # Before the change is committed nobody else sees it.
        found = await self.plane.client.get(f"/api/dynamic/orders/{call.payload['id']}", headers=self.plane.ada)
        assert found.json()["data"]["status"] == "open"
        if self.refusing:
            raise Refused(self.refusing, code="card")
        return {"charged": True}

    async def tell(self, call: FunctionCall) -> Any:
        self.asked.append(dict(call.payload))
        found = await self.plane.client.get(f"/api/dynamic/orders/{call.payload['id']}", headers=self.plane.ada)
        assert found.json()["data"]["status"] == "done"
        raise RuntimeError("nobody listens")

    async def total(self, call: FunctionCall) -> Any:
        row = call.payload["row"]
        if row["count"] == 13:
            raise Refused("unlucky", code="unlucky")
        return {"value": int(row["count"] or 0) * 10 + 0.5}


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        yield opened


async def change(plane: Plane, order: str, **values: Any) -> tuple[int, dict[str, Any]]:
    answer = await plane.client.patch(f"/api/dynamic/orders/{order}", json=values, headers=plane.ada)
    return answer.status_code, answer.json()


async def test_code_on_a_move_runs_within_it_when_it_is_required_and_after_it_when_not(plane: Plane) -> None:
    await workshop.install(plane, plane.ada, manifest=staged_manifest())
    till = Till(plane)
    order = await workshop.order(plane, plane.ada, count=2)
    till.refusing = "no cover"
    status, body = await change(plane, order, status="paid", title="x")
    assert (status, body["code"]) == (422, "card")
    assert "no cover" in body["message"]
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    assert (row["status"], row["title"], row["closed_by"]) == ("open", "one", None)
    till.refusing = ""
    status, body = await change(plane, order, status="paid")
    assert status == 200, body
    assert (body["data"]["status"], body["data"]["closed_by"]) == ("paid", "till")
    asked = till.asked[-1]
    assert (asked["from"], asked["to"], asked["before"]["status"], asked["row"]["closed_by"]) == (
        "open",
        "paid",
        "open",
        "till",
    )
    # What is not required runs once the move is made, and its failure undoes nothing.
    assert (await change(plane, order, status="done"))[0] == 200
    assert (till.asked[-1]["from"], till.asked[-1]["to"]) == ("paid", "done")
    seen = len(till.asked)
    assert (await change(plane, order, title="no move"))[0] == 200
    assert len(till.asked) == seen
    async with plane.owner.postgres.acquire() as connection:
        told = await connection.fetchval(
            "SELECT count(*) FROM metacore_events WHERE event_type = 'workshop.Order.updated'"
        )
    assert told == 3


async def test_a_formula_of_tier_three_is_computed_at_every_save(plane: Plane) -> None:
    await workshop.install(plane, plane.ada, manifest=staged_manifest())
    Till(plane)
    made = await plane.client.post(
        "/api/dynamic/orders", json={"title": "a", "count": 3, "total": 9}, headers=plane.ada
    )
    assert made.json()["data"]["total"] == 30.5
    order = made.json()["data"]["id"]
    assert (await change(plane, order, count=4))[1]["data"]["total"] == 40.5
    assert (await change(plane, order, title="b"))[1]["data"]["total"] == 40.5
    status, body = await change(plane, order, count=13)
    assert (status, body["code"]) == (422, "unlucky")
    refused = await plane.client.post("/api/dynamic/orders", json={"title": "a", "count": 13}, headers=plane.ada)
    assert refused.status_code == 422


V2: dict[str, Any] = {
    "key": "notes",
    "name": "Notes",
    "version": "1.0.0",
    "kernel": ">=2.0.0 <3.0.0",
    "model_definitions": [
        {
            "table_name": "notes",
            "model_key": "notes",
            "label": "Notes",
            "org_scoped": True,
            "columns": [{"name": "text", "type": "string", "required": True}, {"name": "n", "type": "int"}],
        }
    ],
    "lifecycle_hooks": {
        "before_create": [{"event": "before_create", "target": {"type": "compiled", "function": "check"}}],
        "notes": [
            {"event": "before_update", "target": {"type": "compiled", "function": "check"}},
            {"event": "before_delete", "target": {"type": "compiled", "function": "keep"}},
            {"event": "after_create", "target": {"type": "compiled", "function": "seen"}},
            {"event": "after_delete", "async": True, "target": {"type": "compiled", "function": "seen"}},
        ],
    },
}


async def test_hooks_of_a_v2_manifest_change_refuse_and_follow_changes(plane: Plane) -> None:
    seen = Arrivals[tuple[str, Any]]()

    async def check(call: FunctionCall) -> Any:
        given = call.payload["input"]
        if given.get("text") == "bad":
            return {"success": False, "error": {"code": "rude", "message": "mind your words"}}
        return {"input": {**given, "text": given.get("text", "").upper()}}

    async def keep(call: FunctionCall) -> Any:
        if call.payload["row"]["n"] == 1:
            raise Refused("kept", code="kept")

    async def note(call: FunctionCall) -> None:
        seen((call.payload["event"], call.payload["row"]["text"]))

    for name, function in (("check", check), ("keep", keep), ("seen", note)):
        plane.app.functions.register("notes", name, function)
    content, signature = signed(write_bundle({"manifest.json": json.dumps(V2).encode()}))
    async with plane.working():
        installed = await plane.install(plane.ada, content, signature, key="notes")
        assert installed.status_code == 201, installed.text

    async def send(method: str, path: str, **given: Any) -> tuple[int, dict[str, Any]]:
        answer = await plane.client.request(method, f"/api/dynamic/notes{path}", json=given or None, headers=plane.ada)
        return answer.status_code, answer.json()

    status, made = await send("POST", "", text="hello", n=1)
    assert (status, made["data"]["text"]) == (201, "HELLO")
    assert await send("POST", "", text="bad") == (422, {"success": False, "message": "mind your words", "code": "rude"})
    row = made["data"]["id"]
    assert (await send("PATCH", f"/{row}", text="more"))[1]["data"]["text"] == "MORE"
    assert (await send("DELETE", f"/{row}"))[1]["code"] == "kept"
    assert (await send("PATCH", f"/{row}", n=2, text="last"))[0] == 200
    assert (await send("DELETE", f"/{row}"))[0] == 200
    assert await seen.reach(2) == [("after_create", "HELLO"), ("after_delete", "LAST")]


async def test_code_that_sets_itself_off_ends(plane: Plane) -> None:
    hook = {"target": {"type": "compiled", "function": "again"}, "event": "after_create"}
    manifest = {**V2, "lifecycle_hooks": {"after_create": [hook]}}
    depth: list[int] = []

    async def again(call: FunctionCall) -> None:
        depth.append(len(depth))
        await plane.app._ungated.create(principal(call.organization_id), "notes", {"text": "more"})

    plane.app.functions.register("notes", "again", again)
    content, signature = signed(write_bundle({"manifest.json": json.dumps(manifest).encode()}))
    async with plane.working():
        assert (await plane.install(plane.ada, content, signature, key="notes")).status_code == 201
    assert (await plane.client.post("/api/dynamic/notes", json={"text": "one"}, headers=plane.ada)).status_code == 201
    assert len(depth) == 4
