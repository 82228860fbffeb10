"""`GET /metacore/navigation` as a client meets it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Header
from tests.accounts import serving
from tests.factories import principal

from metacore import __version__
from metacore.api.navigation import build_navigation_router
from metacore.identity import Principal
from metacore.manifest.model import Manifest, NavigationGroup, NavigationItem
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore
from metacore.registry import Installed, LiveAddon, Registry

ACME, GLOBEX = uuid.uuid4(), uuid.uuid4()
CORE = [{"title": "Work", "target": "core.work", "items": [{"title": "Home", "url": "/"}]}]


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    items = (
        NavigationItem(title="Tickets", model="tickets"),
        NavigationItem(title="Admin", permission="desk.manage"),
    )
    groups = (NavigationGroup(target="core.work", items=items),)
    manifest = Manifest(api="v2", key="desk", name="Desk", version="1.0.0", navigation=groups)
    registry = Registry()
    registry.replace(
        1,
        {"desk": LiveAddon(key="desk", version="1.0.0", digest="", manifest=manifest)},
        {ACME: {"desk": Installed(uuid.uuid4(), "desk", "1.0.0", True)}},
    )
    store = MemoryPermissionStore()
    await store.grant_role(ACME, "agent", "tickets.read")

    async def optional(role: Annotated[str, Header()] = "", of: Annotated[str, Header()] = "acme") -> Principal | None:
        return principal(ACME if of == "acme" else GLOBEX, role=role) if role else None

    router = build_navigation_router(registry, PermissionService(store), optional, core_groups=lambda _: CORE)
    async with serving(router) as made:
        yield made


async def titles(client: httpx2.AsyncClient, **headers: str) -> Any:
    reply = await client.get("/metacore/navigation", headers=headers)
    assert reply.status_code == 200
    assert reply.headers["x-metacore-kernel-version"] == __version__
    return [(group["title"], [item["title"] for item in group["items"]]) for group in reply.json()]


async def test_without_a_token_the_menu_is_an_empty_array(client: httpx2.AsyncClient) -> None:
    assert await titles(client) == []


async def test_the_menu_is_a_bare_array_of_what_the_caller_may_use(client: httpx2.AsyncClient) -> None:
    assert await titles(client, role="owner") == [("Work", ["Home", "Tickets", "Admin"])]
    assert await titles(client, role="agent") == [("Work", ["Home", "Tickets"])]
    assert await titles(client, role="guest") == [("Work", ["Home"])]


async def test_an_addon_shows_only_where_it_is_installed(client: httpx2.AsyncClient) -> None:
    assert await titles(client, role="owner", of="globex") == [("Work", ["Home"])]
