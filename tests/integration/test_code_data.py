"""Rows through a guest's host calls: the rules of every save, what belongs to whom, and what happens at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.factories import principal
from tests.guests.script import host, script
from tests.tickets import make_bundle, signed, tickets_manifest

from metacore.addons.invocation import Handler, Invocation
from metacore.dynamic.hook_points import HookContext, HookPoint
from metacore.events.bus import BusEvent
from metacore.modelbase import load_host_model

NOT_THERE = "0b2c9d81-3637-4ad5-991d-a515cac0a090"


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        await workshop.install(opened, opened.ada, opened.eve)
        yield opened


async def organization(plane: Plane, headers: Headers) -> uuid.UUID:
    reply = await plane.client.get("/api/auth/me", headers=headers)
    return uuid.UUID(reply.json()["data"]["user"]["organization_id"])


async def ask(plane: Plane, *steps: bytes, headers: Headers | None = None, user: bool = False) -> list[Any]:
    """What the host answered to each step."""
    own = await organization(plane, headers or plane.ada)
    result = await plane.app.runner.run(
        Invocation(
            addon_key="workshop",
            organization_id=own,
            trigger="schedule",
            name="test",
            handler=Handler("wasm", "run"),
            payload=script(*steps),
            principal=principal(own) if user else None,
        )
    )
    assert result.success, result
    answers: list[Any] = result.data
    return answers


async def mutate(plane: Plane, headers: Headers | None = None, **mutation: Any) -> Any:
    return (await ask(plane, host("data_mutate", {"model": "Order", **mutation}), headers=headers))[0]


async def test_a_row_is_created_changed_and_deleted_by_the_rules_of_every_save(plane: Plane) -> None:
    heard = Arrivals[BusEvent]()
    plane.app.bus.subscribe("kernel", "workshop.Order.*", heard)
    made = (await mutate(plane, op="create", data={"title": "chair", "count": 3, "closed_by": "robot"}))["data"]
    assert (
        made["row"] | {"title": "chair", "count": 3, "total": 6.0, "closed_by": "robot", "number": "A-000001"}
        == (made["row"])
    )
    assert made["row"]["created_by_id"] is None
    changed = await mutate(plane, op="update", id=made["id"], data={"status": "done"}, returning=["status", "total"])
    assert changed["data"] == {"id": made["id"], "row": {"status": "done", "total": 6.0}}
    gone = await mutate(plane, op="delete", id=made["id"], returning=False)
    assert gone["data"] == {"id": made["id"]}
    events = await heard.reach(3)
    assert [event.name.rsplit(".", 1)[1] for event in events] == ["created", "updated", "deleted"]
    assert events[1].payload["before"]["status"] == "open"
    assert (await mutate(plane, op="update", id=made["id"], data={"count": 1}))["error"]["code"] == "not_found"


async def test_the_user_behind_a_run_is_the_author(plane: Plane) -> None:
    answers = await ask(
        plane, host("data_mutate", {"table": "orders", "op": "create", "data": {"title": "x"}}), user=True
    )
    assert uuid.UUID(answers[0]["data"]["row"]["created_by_id"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"op": "create", "data": {"title": "x", "organization_id": NOT_THERE}}, "reserved_column"),
    ({"op": "create", "data": {"title": "x", "id": NOT_THERE}}, "reserved_column"),
    ({"op": "create", "data": {"title": "x", "deleted_at": None}}, "reserved_column"),
    ({"op": "create", "data": {"title": "x", "total": 4}}, "reserved_column"),
    ({"op": "create", "data": {"title": "x", "absent": 4}}, "unknown_column"),
    ({"op": "create", "data": {"title": "x"}, "returning": ["pin"]}, "unknown_column"),
    ({"op": "create", "data": {}}, "validation"),
    ({"op": "create", "data": {"title": 5}}, "arg_decode"),
    ({"op": "create", "data": {"title": "x"}, "inc": {"count": 1}}, "arg_decode"),
    ({"op": "create", "data": {"title": "x", "count": -1}}, "constraint_violation"),
    ({"op": "update", "id": NOT_THERE, "data": {"title": "x"}}, "not_found"),
    ({"op": "update", "id": "7", "data": {"title": "x"}}, "arg_decode"),
    ({"op": "update", "id": NOT_THERE}, "arg_decode"),
    ({"op": "update", "id": NOT_THERE, "inc": {"title": 1}}, "not_found"),
    ({"op": "delete", "id": NOT_THERE}, "not_found"),
    ({"op": "drop"}, "arg_decode"),
    ({"model": "nothing", "op": "create"}, "unknown_model"),
    ({"model": "addon_tickets.orders", "op": "create"}, "unknown_model"),
    ({"model": 5, "op": "create"}, "arg_decode"),
]


async def test_what_may_not_be_saved_is_refused_with_its_code(plane: Plane) -> None:
    asked = [host("data_mutate", {"model": "Order", **mutation}) for mutation, _ in REFUSED]
    answers = await ask(plane, *asked)
    for (mutation, code), answer in zip(REFUSED, answers, strict=True):
        assert answer.get("error", {}).get("code") == code, (mutation, answer)
    assert (await ask(plane, host("data_query", {"model": "Order"})))[0]["data"]["rows"] == []


async def test_a_broken_constraint_carries_its_sqlstate(plane: Plane) -> None:
    line = {"model": "Line", "op": "create", "data": {"code": "a"}}
    answers = await ask(plane, host("data_mutate", line), host("data_mutate", line))
    assert answers[0]["success"]
    assert answers[1]["error"] == {
        "code": "constraint_violation",
        "message": "another row has the same code",
        "sqlstate": "23505",
    }
    # A constraint may have a key of its own for what users read; guests hear the same as of any other.
    named = {"model": "Order", "op": "create", "data": {"title": "x", "weight": -1}}
    assert (await ask(plane, host("data_mutate", named)))[0]["error"] == {
        "code": "constraint_violation",
        "message": "weight: weight >= 0 does not hold",
        "sqlstate": "23514",
    }


async def test_increments_of_many_at_once_are_all_counted_and_formulas_follow(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada, count=1)
    add = host("data_mutate", {"model": "Order", "op": "update", "id": order, "inc": {"count": 2}})
    answers = await asyncio.gather(*(ask(plane, add) for _ in range(30)))
    assert all(answer[0]["success"] for answer in answers), answers
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    assert (row["count"], row["total"]) == (61, 122.0)
    below = await mutate(plane, op="update", id=order, inc={"count": -62})
    assert (below["error"]["code"], below["error"]["sqlstate"]) == ("constraint_violation", "23514")
    refused = await mutate(plane, op="update", id=order, inc={"title": 1})
    assert refused["error"]["code"] == "arg_decode"


async def test_rows_are_found_by_equality_and_never_those_of_others(plane: Plane) -> None:
    for title, status in (("a", "open"), ("b", "done"), ("c", "done")):
        await workshop.order(plane, plane.ada, title=title, status=status, pin="4711")
    await workshop.order(plane, plane.eve, title="hers", status="done")

    async def titles(where: dict[str, Any], **more: Any) -> list[str]:
        answer = (await ask(plane, host("data_query", {"table": "orders", "where": where, **more})))[0]
        return [row["title"] for row in answer["data"]["rows"]]

    assert await titles({}) == ["c", "b", "a"]
    assert await titles({"status": "done"}, limit=1) == ["c"]
    assert await titles({"status": "done", "title": "b"}) == ["b"]
    assert await titles({"closed_by": None, "title": "a"}) == ["a"]
    assert await titles({"title": None}) == []
    assert await titles({"organization_id": str(await organization(plane, plane.eve))}) == []
    rows = (await ask(plane, host("data_query", {"model": "Order", "limit": 100_000})))[0]["data"]["rows"]
    assert len(rows) == 3
    assert all("pin" not in row for row in rows)
    for query, code in (
        ({"model": "Order", "where": {"pin": "4711"}}, "unknown_column"),
        ({"model": "Order", "where": {"absent": 1}}, "unknown_column"),
        ({"model": "Order", "where": {"count": "x"}}, "arg_decode"),
        ({"model": "Order", "where": [1]}, "arg_decode"),
        ({"model": "Order", "limit": 0}, "arg_decode"),
        ({}, "arg_decode"),
    ):
        assert (await ask(plane, host("data_query", query)))[0]["error"]["code"] == code


async def test_a_row_of_another_tenant_does_not_exist(plane: Plane) -> None:
    order = await workshop.order(plane, plane.eve)
    for mutation in (
        {"op": "update", "data": {"title": "mine"}},
        {"op": "update", "inc": {"count": 1}},
        {"op": "delete"},
    ):
        assert (await mutate(plane, id=order, **mutation))["error"]["code"] == "not_found"
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.eve)).json()["data"]
    assert (row["title"], row["count"]) == ("one", 0)


async def test_a_batch_is_all_or_nothing(plane: Plane) -> None:
    order = await workshop.order(plane, plane.ada, count=5)
    heard: list[tuple[str, int]] = []

    async def after(context: HookContext, row: dict[str, Any]) -> None:
        found = await plane.app.dynamic.list(principal(context.principal.organization_id), "orders")
        heard.append((row["title"], found[1]["total"]))

    plane.app.hooks.register(HookPoint.AFTER_CREATE, "orders", after)
    create = {"model": "Order", "op": "create", "data": {"title": "made"}}
    change = {"model": "Order", "op": "update", "id": order, "data": {"status": "done"}, "inc": {"count": 1}}
    good = (await ask(plane, host("data_batch", [create, change, {"model": "Line", "op": "create", "data": {}}])))[0]
    assert [result["id"] == order for result in good["data"]["results"]] == [False, True, False]
    # Hooks after a change see it committed.
    assert heard == [("made", 2)]
    wrong = {"model": "Order", "op": "update", "id": NOT_THERE, "data": {"title": "x"}}
    bad = (await ask(plane, host("data_batch", {"mutations": [create, change, wrong]})))[0]
    assert bad["error"]["code"] == "not_found"
    assert "mutation 2" in bad["error"]["message"]
    assert heard == [("made", 2)]
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    assert (row["status"], row["count"]) == ("done", 6)
    assert len((await ask(plane, host("data_query", {"model": "Order"})))[0]["data"]["rows"]) == 2
    for third, code in ((5, "arg_decode"), ({**create, "data": {"absent": 1}}, "unknown_column")):
        malformed = (await ask(plane, host("data_batch", [create, change, third])))[0]["error"]
        assert (malformed["code"], malformed["message"].count("mutation")) == (code, 1)
        assert malformed["message"].startswith("mutation 2: ")
    too_many = (await ask(plane, host("data_batch", [create] * 101)))[0]
    assert too_many["error"]["code"] == "payload_too_large"


async def test_sequences_count_per_organization_and_scope_and_never_twice(plane: Plane) -> None:
    async def next_number(key: str, headers: Headers, **more: Any) -> str:
        answer = (await ask(plane, host("sequence_next", {"model": "Order", "key": key, **more}), headers=headers))[0]
        return str(answer["data"]["value"])

    numbers = await asyncio.gather(*(next_number("number", plane.ada) for _ in range(20)))
    assert sorted(numbers) == [f"A-{n:06}" for n in range(1, 21)]
    assert await next_number("number", plane.eve) == "A-000001"
    assert [await next_number("place", plane.ada, scope=scope) for scope in ("open", "open", "done")] == ["1", "2", "1"]
    order = await workshop.order(plane, plane.ada)
    row = (await plane.client.get(f"/api/dynamic/orders/{order}", headers=plane.ada)).json()["data"]
    assert (row["number"], row["place"]) == ("A-000021", 1)
    for request, code in (
        ({"model": "Order", "key": "absent"}, "unknown_sequence"),
        ({"model": "Order"}, "arg_decode"),
        ({"model": "Order", "key": "place", "scope": "x" * 300}, "arg_decode"),
    ):
        assert (await ask(plane, host("sequence_next", request)))[0]["error"]["code"] == code


@pytest.mark.parametrize("enforce", [False, True], ids=["shadow", "enforce"])
async def test_models_of_others_need_a_grant_in_enforce_and_are_recorded_in_shadow(
    database_urls: DatabaseUrls, enforce: bool
) -> None:
    grants = [
        {"kind": "db:read", "target": "addon_tickets.tickets"},
        {"kind": "db:write", "target": "addon_tickets.ticket_kinds"},
    ]
    query = host("data_query", {"table": "tickets"})
    write = host("data_mutate", {"model": "Ticket", "op": "create", "data": {"title": "t"}})
    granted = host("data_mutate", {"table": "addon_tickets.ticket_kinds", "op": "create", "data": {"code": "new"}})
    async with control_plane(database_urls, enforce=enforce) as plane:
        await workshop.install(plane, plane.ada, manifest=workshop.workshop_manifest(capabilities=grants))
        async with plane.working():
            made = await plane.install(plane.ada, *signed(make_bundle(tickets_manifest())))
            assert made.is_success, made.text
        answers = await ask(plane, query, granted, write)
        text = plane.app.metrics.render().decode()
    assert answers[0]["success"], answers
    assert answers[1]["success"], answers
    mode = "enforce" if enforce else "shadow"
    assert f'violations_total{{addon="workshop",kind="db:write",mode="{mode}"}} 1.0' in text
    assert 'kind="db:read"' not in text
    if enforce:
        assert answers[2]["error"]["code"] == "forbidden"
        assert "addon_tickets.tickets" in answers[2]["error"]["message"]
    else:
        assert answers[2]["success"], answers


class People:
    """What a careless host might serve: a table of the kernel."""

    table_name = "users"

    def define_table(self) -> dict[str, Any]:
        return {"title": "People"}

    def define_modal(self) -> dict[str, Any]:
        return {"title": "People"}


async def test_tables_of_the_kernel_are_refused_in_shadow_too_whatever_was_granted(database_urls: DatabaseUrls) -> None:
    grants = [{"kind": kind, "target": "users"} for kind in ("db:read", "db:write")]
    async with control_plane(database_urls) as plane:
        await workshop.install(plane, plane.ada, manifest=workshop.workshop_manifest(capabilities=grants))
        plane.app.registry.set_host_model(await load_host_model(plane.app.database, "people", People))
        answers = await ask(
            plane,
            host("data_query", {"model": "people"}),
            host("data_mutate", {"table": "users", "op": "create", "data": {"name": "Mallory"}}),
        )
        assert [answer["error"]["code"] for answer in answers] == ["forbidden", "forbidden"]
        assert "password" not in str(answers)
        listed = await plane.client.get("/api/dynamic/people", headers=plane.ada)
        assert [row["name"] for row in listed.json()["data"]] == ["ada"]
