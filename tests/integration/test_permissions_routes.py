"""Grants, users and gated routes over HTTP: who may do what to whom."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends
from starlette.responses import Response
from tests.accounts import CONFIG, bearer, serving
from tests.factories import PASSWORD

from metacore.api import envelope
from metacore.api.permissions import build_permissions_router, requires
from metacore.api.route import KernelRoute
from metacore.api.users import build_users_router
from metacore.auth.accounts import LoginResult
from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.identity import Principal
from metacore.permissions.database_store import DatabasePermissionStore
from metacore.permissions.service import PermissionService


class ReadOnlyStore:
    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> list[str]:
        return ["reports.read", "permissions.read", "permissions.update"]


@dataclass
class World:
    """Ada owns Engines; Grace is its admin, Alan its agent. Eve owns another organization."""

    client: httpx2.AsyncClient
    auth: AuthService
    store: DatabasePermissionStore
    ada: LoginResult
    grace: LoginResult
    alan: LoginResult
    eve: LoginResult

    async def call(
        self, who: LoginResult, method: str, path: str, json: dict[str, Any] | None = None
    ) -> httpx2.Response:
        return await self.client.request(method, path, json=json, headers=bearer(who.token))

    async def status(self, who: LoginResult, method: str, path: str, json: dict[str, Any] | None = None) -> int:
        return (await self.call(who, method, path, json)).status_code

    async def allow(self, role: str, *capabilities: str) -> None:
        for capability in capabilities:
            await self.store.grant_role(self.ada.organization.id, role, capability)


def gated_router(permissions: PermissionService | None, auth: AuthService) -> APIRouter:
    router = APIRouter(route_class=KernelRoute)

    @router.get("/all")
    async def all_of(
        caller: Annotated[Principal, Depends(requires(permissions, auth, "reports.read", "reports.send"))],
    ) -> Response:
        return envelope.ok(caller.email)

    @router.get("/any")
    async def any_of(
        caller: Annotated[Principal, Depends(requires(permissions, auth, "reports.read", "reports.send", any_of=True))],
    ) -> Response:
        return envelope.ok(caller.email)

    return router


@pytest.fixture
async def world(kernel_db: Database) -> AsyncIterator[World]:
    auth = AuthService(kernel_db, CONFIG)
    store = DatabasePermissionStore(kernel_db)
    permissions = PermissionService(store)
    ada = await auth.register("Ada", "ada@example.com", PASSWORD, organization_name="Engines")
    for name, role in (("grace", "admin"), ("alan", "agent")):
        await auth.create_user(ada.organization.id, name.title(), f"{name}@example.com", PASSWORD, role)
    async with serving(
        build_permissions_router(permissions, auth),
        build_users_router(auth, permissions),
        gated_router(permissions, auth),
    ) as client:
        yield World(
            client,
            auth,
            store,
            ada,
            await auth.login("grace@example.com", PASSWORD),
            await auth.login("alan@example.com", PASSWORD),
            await auth.register("Eve", "eve@example.com", PASSWORD),
        )
    auth.close()


# --- the gate


async def test_a_gated_route_asks_for_all_of_its_capabilities(world: World) -> None:
    assert await world.status(world.ada, "GET", "/all") == 200
    denied = await world.call(world.alan, "GET", "/all")
    assert denied.status_code == 403
    assert denied.json()["message"] == 'permission denied: missing capability "reports.read"'
    await world.allow("agent", "reports.read")
    assert (await world.call(world.alan, "GET", "/all")).json()["message"].endswith('"reports.send"')
    await world.allow("agent", "reports.*")
    assert await world.status(world.alan, "GET", "/all") == 200


async def test_a_gated_route_may_ask_for_any_of_them(world: World) -> None:
    denied = await world.call(world.alan, "GET", "/any")
    assert denied.status_code == 403
    assert '"reports.read" or "reports.send"' in denied.json()["message"]
    await world.allow("agent", "reports.send")
    assert await world.status(world.alan, "GET", "/any") == 200


async def test_a_gated_route_wants_a_token_first(world: World) -> None:
    assert (await world.client.get("/all")).status_code == 401


async def test_without_a_store_there_is_no_gate_but_still_a_login(world: World) -> None:
    async with serving(gated_router(None, world.auth), build_permissions_router(None, world.auth)) as client:
        assert (await client.get("/all", headers=bearer(world.alan.token))).status_code == 200
        assert (await client.get("/all")).status_code == 401
        mine = await client.get("/permissions/me", headers=bearer(world.alan.token))
        assert mine.json()["data"] == {"role": "agent", "capabilities": ["*"]}
        grant = await client.put("/permissions/roles/agent/x.read", headers=bearer(world.ada.token))
        assert grant.status_code == 501


async def test_a_store_that_cannot_be_written_gates_and_is_not_administered(world: World) -> None:
    permissions = PermissionService(ReadOnlyStore())
    async with serving(
        gated_router(permissions, world.auth), build_permissions_router(permissions, world.auth)
    ) as client:
        assert (await client.get("/any", headers=bearer(world.alan.token))).status_code == 200
        assert (await client.get("/all", headers=bearer(world.alan.token))).status_code == 403
        for method, path in (("GET", "roles"), ("PUT", "roles/agent/x.read"), ("DELETE", "roles/agent/x.read")):
            reply = await client.request(method, f"/permissions/{path}", headers=bearer(world.alan.token))
            assert reply.status_code == 501


# --- grants


async def test_everybody_sees_what_they_hold(world: World) -> None:
    await world.allow("agent", "tickets.read")
    await world.store.grant_user(world.ada.organization.id, world.alan.user.id, "tickets.close")
    mine = await world.call(world.alan, "GET", "/permissions/me")
    assert mine.json()["data"] == {"role": "agent", "capabilities": ["tickets.close", "tickets.read"]}
    owners = await world.call(world.ada, "GET", "/permissions/me")
    assert owners.json()["data"] == {"role": "owner", "capabilities": ["*"]}


async def test_an_owner_grants_and_revokes_for_roles(world: World) -> None:
    granted = await world.call(world.ada, "PUT", "/permissions/roles/agent/Tickets.read")
    assert granted.json()["data"] == {"role": "agent", "capability": "tickets.read", "granted": True}
    assert await world.status(world.ada, "PUT", "/permissions/roles/agent/tickets.read") == 200
    shown = await world.call(world.ada, "GET", "/permissions/roles")
    assert shown.json()["data"] == {"agent": ["tickets.read"]}
    one = await world.call(world.ada, "GET", "/permissions/roles/agent")
    assert one.json()["data"] == {"role": "agent", "capabilities": ["tickets.read"]}
    assert (await world.call(world.ada, "GET", "/permissions/roles/agent/tickets.read")).json()["data"]["granted"]
    await world.call(world.ada, "DELETE", "/permissions/roles/agent/tickets.read")
    gone = await world.call(world.ada, "GET", "/permissions/roles/agent/tickets.read")
    assert gone.json()["data"]["granted"] is False


async def test_an_owner_grants_and_revokes_for_users(world: World) -> None:
    path = f"/permissions/users/{world.alan.user.id}"
    await world.call(world.ada, "PUT", f"{path}/tickets.*")
    assert (await world.call(world.ada, "GET", path)).json()["data"]["capabilities"] == ["tickets.*"]
    assert (await world.call(world.ada, "GET", f"{path}/tickets.*")).json()["data"]["granted"] is True
    assert "tickets.*" in (await world.call(world.alan, "GET", "/permissions/me")).json()["data"]["capabilities"]
    await world.call(world.ada, "DELETE", f"{path}/tickets.*")
    assert (await world.call(world.alan, "GET", "/permissions/me")).json()["data"]["capabilities"] == []


async def test_grants_are_closed_to_who_may_not_administer_them(world: World) -> None:
    for who in (world.grace, world.alan):
        assert await world.status(who, "GET", "/permissions/roles") == 403
        assert await world.status(who, "PUT", "/permissions/roles/agent/tickets.read") == 403
        assert await world.status(who, "DELETE", "/permissions/roles/agent/tickets.read") == 403
        assert await world.status(who, "PUT", f"/permissions/users/{who.user.id}/tickets.read") == 403
    assert (await world.client.get("/permissions/roles")).status_code == 401


async def test_nobody_grants_what_they_lack(world: World) -> None:
    await world.allow("admin", "permissions.update", "tickets.*")
    assert await world.status(world.grace, "PUT", "/permissions/roles/agent/tickets.read") == 200
    denied = await world.call(world.grace, "PUT", "/permissions/roles/agent/users.update")
    assert denied.status_code == 403
    assert denied.json()["message"] == 'permission denied: missing capability "users.update"'
    for path in ("roles/admin/*", "roles/admin/users.*", f"users/{world.grace.user.id}/users.update"):
        assert await world.status(world.grace, "PUT", f"/permissions/{path}") == 403
    await world.allow("agent", "users.read")
    assert await world.status(world.grace, "DELETE", "/permissions/roles/agent/users.read") == 403


async def test_only_owners_touch_grants_of_owners(world: World) -> None:
    await world.allow("admin", "*")
    assert await world.status(world.grace, "PUT", "/permissions/roles/owner/tickets.read") == 403
    assert await world.status(world.grace, "PUT", f"/permissions/users/{world.ada.user.id}/tickets.read") == 403
    assert await world.status(world.ada, "PUT", "/permissions/roles/owner/tickets.read") == 200


async def test_grants_stop_at_the_organization(world: World) -> None:
    path = f"/permissions/users/{world.alan.user.id}"
    for method, target in (("GET", path), ("PUT", f"{path}/tickets.read"), ("DELETE", f"{path}/tickets.read")):
        assert await world.status(world.eve, method, target) == 404
    await world.call(world.eve, "PUT", "/permissions/roles/agent/tickets.read")
    assert (await world.call(world.ada, "GET", "/permissions/roles")).json()["data"] == {}


@pytest.mark.parametrize(
    "path", ["roles/agent/tickets", "roles/a.b/tickets.read", "users/7/tickets.read", "roles/agent/a%20b.read"]
)
async def test_malformed_grants_are_400(world: World, path: str) -> None:
    assert await world.status(world.ada, "PUT", f"/permissions/{path}") == 400


# --- users


async def test_an_owner_creates_lists_reads_and_changes_users(world: World) -> None:
    new = {"name": "Linus", "email": "Linus@example.com", "password": PASSWORD}
    created = await world.call(world.ada, "POST", "/users", new)
    assert created.status_code == 201
    linus = created.json()["data"]
    assert (linus["email"], linus["role"], linus["status"]) == ("linus@example.com", "agent", "active")
    assert "argon2" not in created.text
    page = await world.call(world.ada, "GET", "/users?per_page=3&page=2")
    assert [user["name"] for user in page.json()["data"]] == ["Linus"]
    assert page.json()["meta"] == {"total": 4, "page": 2, "per_page": 3, "last_page": 2}
    found = await world.call(world.ada, "GET", "/users?search=LIN")
    assert [user["name"] for user in found.json()["data"]] == ["Linus"]
    assert (await world.call(world.ada, "GET", "/users?search=%25")).json()["data"] == []
    changed = await world.call(world.ada, "PATCH", f"/users/{linus['id']}", {"role": "admin", "name": "Linus T."})
    assert (changed.json()["data"]["role"], changed.json()["data"]["name"]) == ("admin", "Linus T.")
    assert (await world.call(world.ada, "GET", f"/users/{linus['id']}")).json()["data"]["role"] == "admin"


async def test_users_are_closed_to_who_holds_no_capability_for_them(world: World) -> None:
    for who in (world.grace, world.alan):
        assert await world.status(who, "GET", "/users") == 403
        assert await world.status(who, "GET", f"/users/{who.user.id}") == 403
        assert await world.status(who, "PATCH", f"/users/{who.user.id}", {"name": "X"}) == 403
        assert await world.status(who, "POST", "/users", {"name": "X", "email": "x@y", "password": PASSWORD}) == 403


async def test_a_demotion_over_http_holds_for_the_next_request(world: World) -> None:
    await world.allow("admin", "users.read")
    assert await world.status(world.grace, "GET", "/users") == 200
    await world.call(world.ada, "PATCH", f"/users/{world.grace.user.id}", {"role": "agent"})
    assert await world.status(world.grace, "GET", "/users") == 401
    fresh = await world.auth.refresh(world.grace.refresh_token)
    assert await world.status(fresh, "GET", "/users") == 403


async def test_users_of_another_organization_are_404_for_everything(world: World) -> None:
    for method, body in (("GET", None), ("PATCH", {"status": "disabled"}), ("PATCH", {"password": PASSWORD})):
        assert await world.status(world.eve, method, f"/users/{world.alan.user.id}", body) == 404
    listed = await world.call(world.eve, "GET", "/users?search=alan")
    assert (listed.json()["data"], listed.json()["meta"]["total"]) == ([], 0)
    assert (await world.auth.authenticate(world.alan.token)).role == "agent"


async def test_admins_cannot_touch_owners_whatever_they_hold(world: World) -> None:
    await world.allow("admin", "*")
    owner = f"/users/{world.ada.user.id}"
    for body in ({"role": "agent"}, {"status": "disabled"}, {"password": "my own password"}, {"name": "X"}):
        assert await world.status(world.grace, "PATCH", owner, body) == 403
    assert (await world.auth.login("ada@example.com", PASSWORD)).user.role == "owner"


async def test_only_owners_make_owners(world: World) -> None:
    await world.allow("admin", "*")
    new = {"name": "X", "email": "x@example.com", "password": PASSWORD, "role": "owner"}
    assert await world.status(world.grace, "POST", "/users", new) == 403
    for target in (world.grace, world.alan):
        assert await world.status(world.grace, "PATCH", f"/users/{target.user.id}", {"role": "owner"}) == 403
    assert await world.status(world.ada, "POST", "/users", new) == 201


async def test_nobody_gives_a_role_that_holds_what_they_lack(world: World) -> None:
    await world.allow("agent", "users.update", "users.create")
    await world.allow("admin", "tickets.delete")
    promoted = await world.call(world.alan, "PATCH", f"/users/{world.alan.user.id}", {"role": "admin"})
    assert promoted.status_code == 403
    new = {"name": "X", "email": "x@example.com", "password": PASSWORD, "role": "admin"}
    assert await world.status(world.alan, "POST", "/users", new) == 403
    assert await world.status(world.alan, "POST", "/users", {**new, "role": "agent"}) == 201


async def test_nobody_takes_over_a_user_who_holds_what_they_lack(world: World) -> None:
    await world.allow("agent", "users.update")
    await world.allow("admin", "tickets.delete")
    takeover = await world.call(world.alan, "PATCH", f"/users/{world.grace.user.id}", {"password": "my own password"})
    assert takeover.status_code == 403
    assert (await world.auth.login("grace@example.com", PASSWORD)).user.role == "admin"
    await world.allow("agent", "tickets.delete")
    assert await world.status(world.alan, "PATCH", f"/users/{world.grace.user.id}", {"name": "G"}) == 200


async def test_the_last_owner_stays_over_http_too(world: World) -> None:
    reply = await world.call(world.ada, "PATCH", f"/users/{world.ada.user.id}", {"role": "agent"})
    assert (reply.status_code, reply.json()["code"]) == (409, "last_owner")


async def test_without_a_store_only_owners_administer_users(world: World) -> None:
    async with serving(build_users_router(world.auth, None)) as client:
        assert (await client.get("/users", headers=bearer(world.ada.token))).status_code == 200
        for who in (world.grace, world.alan):
            assert (await client.get("/users", headers=bearer(who.token))).status_code == 403
            patch = await client.patch(f"/users/{who.user.id}", json={"role": "owner"}, headers=bearer(who.token))
            assert patch.status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"role": "no role!"},
        {"status": "gone"},
        {"password": "short"},
        {"name": ""},
        {"email": "new@example.com"},
        {"organization_id": str(uuid.uuid4())},
        {"role": 7},
        {"password": None, "name": ["x"]},
    ],
)
async def test_malformed_changes_are_400_and_change_nothing(world: World, body: dict[str, Any]) -> None:
    before = await world.auth.get_user(world.ada.organization.id, world.alan.user.id)
    assert await world.status(world.ada, "PATCH", f"/users/{world.alan.user.id}", body) == 400
    assert await world.auth.get_user(world.ada.organization.id, world.alan.user.id) == before


@pytest.mark.parametrize("path", ["/users/7", "/users?page=0", "/users?page=x", "/users?page=99999999999999999999"])
async def test_malformed_requests_are_400(world: World, path: str) -> None:
    assert await world.status(world.ada, "GET", path) == 400


async def test_a_page_is_clamped_and_a_taken_email_is_409(world: World) -> None:
    page = await world.call(world.ada, "GET", "/users?per_page=100000")
    assert page.json()["meta"]["per_page"] == 200
    taken = {"name": "X", "email": "eve@example.com", "password": PASSWORD}
    assert await world.status(world.ada, "POST", "/users", taken) == 409
