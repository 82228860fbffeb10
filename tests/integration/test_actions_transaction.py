"""Actions with run_in_tx: the row is held, and everything is committed together or not at all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.guests.script import SPIN, TRAP, host, reply, script, step
from tests.tickets import make_bundle, signed, tickets_manifest
from tests.workshop import act

from metacore.events.bus import BusEvent


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        await workshop.install(opened, opened.ada)
        yield opened


async def events(plane: Plane) -> list[tuple[str, Any]]:
    async with plane.owner.postgres.acquire() as connection:
        rows = await connection.fetch(
            "SELECT event_type, data FROM metacore_events WHERE event_type LIKE 'workshop.%' ORDER BY id"
        )
    return [(row["event_type"], row["data"]) for row in rows]


async def row(plane: Plane, order: str) -> dict[str, Any]:
    found: dict[str, Any] = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    return found


UPDATE = "UPDATE orders SET status = $1 WHERE id = $2"


async def test_success_commits_the_writes_and_their_events_together(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    heard = Arrivals[BusEvent]()
    for pattern in ("workshop.order.*", "workshop.Order.updated"):
        plane.app.bus.subscribe("kernel", pattern, heard)
    answer = await act(
        plane,
        plane.ada,
        "close",
        order,
        **script(
            host("event_emit", "workshop.order.closing", {"id": order}),
            host("db_exec", UPDATE, ["done", {"$uuid": order}]),
            host("db_query", "SELECT status FROM orders WHERE id = $1", [{"$uuid": order}]),
        ),
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["meta"] == {"model": "Order", "action": "close", "trigger": "wasm"}
    assert body["data"][1]["data"]["rowsAffected"] == 1, body
    assert body["data"][2]["data"]["rows"] == [{"status": "done"}]
    assert (await row(plane, order))["status"] == "done"
    told = await heard.reach(2)
    assert [event.name for event in told] == ["workshop.order.closing", "workshop.Order.updated"]
    assert (told[1].payload["before"]["status"], told[1].payload["after"]["status"]) == ("open", "done")
    me = (await plane.client.get("/api/auth/me", headers=plane.ada)).json()["data"]["user"]
    assert {event.actor_id for event in told} == {uuid.UUID(me["id"])}


@pytest.mark.parametrize(
    "ending",
    [
        reply({"success": False, "error": {"code": "no", "message": "no"}}),
        reply({"error": "no"}),
        step(TRAP),
        reply("not an object") + b"",
        host("db_exec", "UPDATE orders SET title = NULL", []),
    ],
    ids=["declined", "error", "trap", "text", "failed statement"],
)
async def test_only_the_guest_s_success_commits(plane: Plane, ending: bytes) -> None:
    order = await workshop.order(plane, plane.ada)
    before = await events(plane)
    answer = await act(
        plane,
        plane.ada,
        "close",
        order,
        **script(
            host("event_emit", "workshop.order.closing", {}),
            host("db_exec", UPDATE, ["done", {"$uuid": order}]),
            ending,
        ),
    )
    committed = (await row(plane, order))["status"] == "done"
    if answer.status_code == 200:
        # A reply that is no object says success, and a statement that failed left the transaction as it was.
        assert committed
        assert "rolled_back" not in answer.json()["meta"]
        assert len(await events(plane)) == len(before) + 2
    else:
        assert answer.status_code == 422
        assert answer.json()["meta"]["rolled_back"] is True
        assert not committed
        assert await events(plane) == before


async def test_a_mutation_of_the_held_row_gives_up_instead_of_waiting_for_itself(plane: Plane) -> None:
    order, other = await workshop.order(plane, plane.ada), await workshop.order(plane, plane.ada)
    own = {"model": "Order", "op": "update", "id": order, "data": {"title": "x"}}
    free = {"model": "Order", "op": "update", "id": other, "data": {"title": "x"}}
    answer = await act(
        plane,
        plane.ada,
        "close",
        order,
        **script(
            host("data_mutate", own),
            host("data_batch", [free, own]),
            host("data_mutate", free),
            reply({"success": False}),
        ),
    )
    assert answer.status_code == 422
    # What data_mutate did is committed by itself, whatever becomes of the action.
    assert ((await row(plane, order))["title"], (await row(plane, other))["title"]) == ("one", "x")
    codes = await act(plane, plane.ada, "close", order, **script(host("data_mutate", own), host("data_batch", [own])))
    assert [answer["error"]["code"] for answer in codes.json()["data"]] == ["serialization_failure"] * 2
    assert all("db_exec" in answer["error"]["message"] for answer in codes.json()["data"])


async def test_actions_on_one_row_run_one_after_the_other(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    add = script(host("db_exec", "UPDATE orders SET count = count + 1 WHERE id = $1", [{"$uuid": order}]))
    answers = await asyncio.gather(*(act(plane, plane.ada, "close", order, **add) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert (await row(plane, order))["count"] == 12


async def test_the_state_is_that_of_the_held_row(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    close = script(host("db_exec", UPDATE, ["done", {"$uuid": order}]))
    answers = await asyncio.gather(*(act(plane, plane.ada, "close", order, **close) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 5


async def test_a_guest_that_never_answers_lets_go_of_the_row(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls) as plane:
        manifest = workshop.workshop_manifest()
        manifest["backend"]["timeout_ms"] = 300
        await workshop.install(plane, plane.ada, manifest=manifest)
        order = await workshop.order(plane, plane.ada)
        answer = await act(plane, plane.ada, "close", order, **script(step(SPIN)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "timeout")
        assert answer.json()["meta"]["rolled_back"] is True
        change = await plane.client.patch(f"/api/dynamic/orders/{order}", json={"title": "free"}, headers=plane.ada)
        assert change.status_code == 200


async def test_tenants_with_schemas_of_their_own_act_in_their_own(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls) as plane:
        manifest = workshop.workshop_manifest(tenancy={"isolation": "schema"})
        await workshop.install(plane, plane.ada, plane.eve, manifest=manifest)
        order, hers = await workshop.order(plane, plane.ada), await workshop.order(plane, plane.eve)
        close = script(
            host("db_exec", "UPDATE orders SET status = 'done'", []),
            host("db_query", "SELECT count(*) AS n FROM orders", []),
        )
        answer = (await act(plane, plane.ada, "close", order, **close)).json()
        assert answer["data"][0]["data"]["rowsAffected"] == 1, answer
        assert answer["data"][1]["data"]["rows"] == [{"n": 1}]
        change = {"model": "Order", "op": "update", "id": order, "data": {"title": "by code"}}
        batch = host("data_batch", [change, {**change, "id": hers}])
        refused = (await act(plane, plane.ada, "run", order, **script(host("data_mutate", change), batch))).json()[
            "data"
        ]
        assert refused[0]["data"]["row"]["title"] == "by code"
        assert refused[1]["error"]["code"] == "not_found"
        assert (await row(plane, order))["status"] == "done"
        other = (await plane.client.get(f"/api/dynamic/orders/{hers}", headers=plane.eve)).json()["data"]
        assert (other["status"], other["title"]) == ("open", "one")


@pytest.mark.parametrize("granted", [False, True], ids=["ungranted", "granted"])
async def test_in_enforce_a_statement_needs_its_grant_and_403_says_so(
    database_urls: DatabaseUrls, granted: bool
) -> None:
    grants = [{"kind": "db:read", "target": "addon_tickets.tickets"}] if granted else []
    async with control_plane(database_urls, enforce=True) as plane:
        async with plane.working():
            made = await plane.install(plane.ada, *signed(make_bundle(tickets_manifest())))
            assert made.is_success, made.text
        await workshop.install(plane, plane.ada, manifest=workshop.workshop_manifest(capabilities=grants))
        order = await workshop.order(plane, plane.ada)
        steals = script(
            host("db_exec", UPDATE, ["done", {"$uuid": order}]),
            host("db_query", "SELECT count(*) AS n FROM addon_tickets.tickets", []),
            reply({"success": True}) if granted else step(TRAP),
        )
        answer = await act(plane, plane.ada, "close", order, **steals)
        done = (await row(plane, order))["status"] == "done"
        assert (answer.status_code, done) == ((200, True) if granted else (403, False)), answer.text
        if not granted:
            body = answer.json()
            assert body["error"]["code"] == "forbidden"
            assert "addon_tickets.tickets" in body["message"]
            assert body["meta"]["rolled_back"] is True


async def test_db_exec_belongs_to_a_transaction(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada)
    answer = await act(plane, plane.ada, "run", order, **script(host("db_exec", UPDATE, ["x", {"$uuid": order}])))
    assert answer.json()["data"][0]["error"]["code"] == "no_active_tx"
