"""`GET /metacore/violations` and `GET /metacore/mode` of a kernel as a cluster has it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.tickets import make_bundle, signed, tickets_manifest

from metacore.capabilities.access import Access, Mode
from metacore.errors import PermissionDenied
from metacore.version import __version__

BASE = "/api/metacore"


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as found, found.working():
        capabilities = [
            {"kind": "db:read", "target": "addon_crm.contacts", "reason": "to greet people by name"},
            {"kind": "event:emit", "target": "tickets.*", "reason": "others listen"},
        ]
        content, signature = signed(make_bundle(tickets_manifest(capabilities=capabilities)))
        assert (await found.install(found.ada, content, signature)).status_code == 201
        yield found


async def organization_of(plane: Plane, headers: Headers) -> uuid.UUID:
    me = (await plane.client.get("/api/auth/me", headers=headers)).json()["data"]["user"]
    return uuid.UUID(me["organization_id"])


async def misbehave(
    plane: Plane, headers: Headers, target: str = "addon_crm.deals", times: int = 1, **more: Any
) -> None:
    access = Access("tickets", more.get("kind", "db:read"), target, await organization_of(plane, headers), "ada")
    for _ in range(times):
        plane.app.enforcer.decide(access)


async def listed(plane: Plane, headers: Headers, **query: Any) -> dict[str, Any]:
    assert await plane.app.enforcement.writer.flush()
    reply = await plane.client.get(f"{BASE}/violations", params=query, headers=headers)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_grants_are_those_that_were_accepted_at_the_installation(plane: Plane) -> None:
    organization = await organization_of(plane, plane.ada)
    decide = plane.app.enforcer.decide
    for kind, target, granted in (
        ("db:read", "addon_crm.contacts", True),
        ("db:read", "addon_tickets.tickets", True),
        ("event:emit", "tickets.ticket.created", True),
        ("db:write", "addon_crm.contacts", False),
        ("http:fetch", "api.example.com:443", False),
    ):
        assert decide(Access("tickets", kind, target, organization)).granted is granted, target
    # What the owner takes away in the database is gone with the next registry, whatever the bundle says.
    await plane.owner.postgres.execute("UPDATE metacore_addons SET grants = '[]'")
    await plane.owner.postgres.execute("UPDATE metacore_addons SET revision = revision + 1")
    await plane.owner.postgres.execute("UPDATE metacore_registry SET revision = revision + 1")
    await plane.app.loader.load()
    assert not decide(Access("tickets", "db:read", "addon_crm.contacts", organization)).granted


async def test_an_organization_sees_what_addons_did_there_and_nothing_else(plane: Plane) -> None:
    await misbehave(plane, plane.ada, times=3)
    await misbehave(plane, plane.eve, "addon_crm.secret_deals")
    seen = await listed(plane, plane.ada)
    assert seen["meta"] == {"total": 1, "page": 1, "per_page": 20, "last_page": 1}
    (row,) = seen["data"]
    assert {name: row[name] for name in row if name not in {"first", "last"}} == {
        "addon": "tickets",
        "kind": "db:read",
        "target": "addon_crm.deals",
        "organization": str(await organization_of(plane, plane.ada)),
        "caller": "ada",
        "mode": "shadow",
        "forbidden": False,
        "count": 3,
    }
    assert row["first"] <= row["last"] and row["last"].endswith("Z")
    assert [item["target"] for item in (await listed(plane, plane.eve))["data"]] == ["addon_crm.secret_deals"]


async def test_filters_and_pages(plane: Plane) -> None:
    for number in range(5):
        await misbehave(plane, plane.ada, f"addon_crm.t{number}")
    await misbehave(plane, plane.ada, "api.example.com:443", kind="http:fetch")
    await plane.app.enforcement.modes.ask(Mode.ENFORCE, "the test")
    await misbehave(plane, plane.ada, "addon_crm.t0")
    whole = await listed(plane, plane.ada, per_page=3)
    assert (len(whole["data"]), whole["meta"]) == (3, {"total": 7, "page": 1, "per_page": 3, "last_page": 3})
    assert len((await listed(plane, plane.ada, per_page=3, page=3))["data"]) == 1
    assert (await listed(plane, plane.ada, page=99))["data"] == []
    assert [row["target"] for row in (await listed(plane, plane.ada, kind="http:fetch"))["data"]] == ["api.example.com"]
    assert [row["mode"] for row in (await listed(plane, plane.ada, mode="enforce"))["data"]] == ["enforce"]
    assert (await listed(plane, plane.ada, addon="nobody"))["meta"]["total"] == 0
    assert (await listed(plane, plane.ada, since="2999-01-01T00:00:00Z"))["data"] == []
    assert (await listed(plane, plane.ada, since="2026-01-01T00:00:00+02:00"))["meta"]["total"] == 7
    assert (await listed(plane, plane.ada, per_page=100_000))["meta"]["per_page"] == 200


@pytest.mark.parametrize(
    "query",
    [
        {"since": "yesterday"},
        {"since": "0h"},
        {"since": "99999999999d"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "0001-01-01T00:00:00Z"},
        {"page": "one"},
        {"per_page": "1e3"},
        {"addon": "A'; --"},
        {"kind": "db"},
        {"mode": "off"},
    ],
)
async def test_a_question_that_makes_no_sense_is_refused_by_name(plane: Plane, query: dict[str, str]) -> None:
    reply = await plane.client.get(f"{BASE}/violations", params=query, headers=plane.ada)
    assert (reply.status_code, next(iter(query)) in reply.json()["message"]) == (400, True), reply.text
    assert reply.headers["x-metacore-kernel-version"] == __version__


async def test_who_may_read(plane: Plane) -> None:
    assert (await plane.client.get(f"{BASE}/violations")).status_code == 401
    agent = {"name": "Bob", "email": "bob@example.com", "password": "correct horse battery", "role": "agent"}
    assert (await plane.client.post("/api/users", json=agent, headers=plane.ada)).status_code == 201
    login = await plane.client.post("/api/auth/login", json=agent)
    bob = {"Authorization": f"Bearer {login.json()['data']['token']}"}
    denied = await plane.client.get(f"{BASE}/violations", headers=bob)
    assert (denied.status_code, 'missing capability "addons.read"' in denied.json()["message"]) == (403, True)
    granted = await plane.client.put("/api/permissions/roles/agent/addons.read", headers=plane.ada)
    assert granted.status_code == 200
    assert (await plane.client.get(f"{BASE}/violations", headers=bob)).status_code == 200


async def test_the_mode_tells_how_each_addon_of_the_organization_is_held(plane: Plane) -> None:
    reply = (await plane.client.get(f"{BASE}/mode", headers=plane.ada)).json()
    assert reply == {
        "success": True,
        "data": {
            "mode": "shadow",
            "source": "settings",
            "configured": "shadow",
            "asked": None,
            "asked_at": None,
            "fixed": "",
            "addons": [{"key": "tickets", "mode": "inherit", "effective": "shadow"}],
        },
    }
    assert (await plane.client.get(f"{BASE}/mode", headers=plane.eve)).json()["data"]["addons"] == []
    assert (await plane.client.get(f"{BASE}/mode")).status_code == 401
    await plane.owner.postgres.execute("UPDATE metacore_addons SET mode = 'enforce', revision = revision + 1")
    await plane.owner.postgres.execute("UPDATE metacore_registry SET revision = revision + 1")
    await plane.app.loader.load()
    (held,) = (await plane.client.get(f"{BASE}/mode", headers=plane.ada)).json()["data"]["addons"]
    assert held == {"key": "tickets", "mode": "enforce", "effective": "enforce"}
    organization = await organization_of(plane, plane.ada)
    assert not plane.app.enforcer.decide(Access("tickets", "db:read", "addon_crm.deals", organization)).allowed


async def test_the_description_of_the_api_knows_the_routes(plane: Plane) -> None:
    document = (await plane.client.get("/openapi.json", headers=plane.ada)).json()
    asked = document["paths"]["/api/metacore/mode"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked["properties"]["mode"]["enum"] == ["shadow", "enforce", None]
    names = {item["name"] for item in document["paths"]["/api/metacore/violations"]["get"]["parameters"]}
    assert names == {"since", "addon", "kind", "mode", "page", "per_page"}


async def test_the_bus_holds_addons_to_their_grants_and_their_organizations(plane: Plane) -> None:
    ada, eve = await organization_of(plane, plane.ada), await organization_of(plane, plane.eve)
    seen: list[Any] = []
    bus = plane.app.bus
    # The kernel itself listens to everything, for subscriptions of addons and whatever else follows events.
    kernels_own = await bus.publish("tickets", "tickets.ticket.closed", ada, {})
    bus.subscribe("tickets", "billing.*", lambda event: seen.append((event.name, event.organization_id)))
    assert await bus.publish("tickets", "tickets.ticket.closed", ada, {}) == kernels_own
    for organization in (ada, eve):
        await bus.publish("kernel", "billing.paid", organization, {})
    await bus.drain()
    assert seen == [("billing.paid", ada)]
    await plane.app.enforcement.modes.ask(Mode.ENFORCE, "the test")
    await bus.publish("kernel", "billing.paid", ada, {})
    await bus.drain()
    assert len(seen) == 1
    with pytest.raises(PermissionDenied, match="may not subscribe"):
        bus.subscribe("tickets", "billing.*", seen.append)
    with pytest.raises(PermissionDenied, match="may not emit"):
        await bus.publish("tickets", "billing.refunded", ada, {})
    assert await bus.publish("tickets", "tickets.ticket.closed", ada, {}) == kernels_own
    counted = {
        (row["kind"], row["target"], row["mode"]): row["count"] for row in (await listed(plane, plane.ada))["data"]
    }
    assert counted == {
        ("event:subscribe", "billing.paid", "shadow"): 1,
        ("event:subscribe", "billing.paid", "enforce"): 1,
        ("event:emit", "billing.refunded", "enforce"): 1,
    }


async def test_who_subscribes_before_anything_is_loaded_is_asked_at_each_event(database_urls: DatabaseUrls) -> None:
    seen: list[str] = []
    async with control_plane(database_urls, enforce=True) as plane, plane.working():
        bus = plane.app.bus
        plane.app.registry.loaded = False
        for pattern in ("tickets.*", "billing.*"):
            bus.subscribe("tickets", pattern, lambda event: seen.append(event.name))
        plane.app.registry.loaded = True
        ada = await organization_of(plane, plane.ada)
        await bus.publish("kernel", "tickets.early", ada, {})
        capabilities = [{"kind": "event:subscribe", "target": "tickets.*", "reason": "its own"}]
        content, signature = signed(make_bundle(tickets_manifest(capabilities=capabilities)))
        assert (await plane.install(plane.ada, content, signature)).status_code == 201
        for name in ("tickets.one", "billing.paid"):
            await bus.publish("kernel", name, ada, {})
        await bus.drain()
    assert seen == ["tickets.one"]


async def test_no_event_reaches_an_addon_that_is_disabled_or_fenced(plane: Plane) -> None:
    ada = await organization_of(plane, plane.ada)
    seen: list[str] = []
    plane.app.bus.subscribe("tickets", "tickets.*", lambda event: seen.append(event.name))

    async def publish(name: str) -> None:
        await plane.app.bus.publish("kernel", name, ada, {})
        await plane.app.bus.drain()

    await publish("tickets.one")
    assert (await plane.client.post(f"{BASE}/installations/tickets/disable", headers=plane.ada)).status_code == 200
    await publish("tickets.two")
    assert (await plane.client.post(f"{BASE}/installations/tickets/enable", headers=plane.ada)).status_code == 200
    await publish("tickets.three")
    await plane.owner.postgres.execute(
        "UPDATE metacore_addons SET fenced_reason = 'untrusted', revision = revision + 1"
    )
    await plane.owner.postgres.execute("UPDATE metacore_registry SET revision = revision + 1")
    await plane.app.loader.load()
    await publish("tickets.four")
    assert seen == ["tickets.one", "tickets.three"]
