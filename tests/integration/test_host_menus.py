"""Addons linked into a host act, and are in the menu, exactly where they are enabled; with an App or without one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from tests.applications import new_app, register, started
from tests.conftest import DatabaseUrls
from tests.factories import make_organization

from metacore import Database, Declarative, HookContext, Host, HostConfig
from metacore.app import App
from metacore.db.migrate import create_all
from metacore.errors import Misconfigured

MANIFEST: dict[str, Any] = {
    "apiVersion": "asteby.com/v3",
    "kind": "Addon",
    "metadata": {"key": "crm", "name": "CRM", "version": "1.0.0"},
    "models": [{"key": "Lead", "table": "leads", "columns": [{"name": "name", "type": "string"}]}],
    "contributions": {
        "navigation": [
            {"title": "CRM", "items": [{"title": "Leads", "url": "/leads", "model": "Lead"}]},
            {"target": "main", "items": [{"title": "Pipeline", "url": "/pipeline"}]},
        ]
    },
}
CORE = [{"title": "Main", "target": "main", "items": [{"title": "Home", "url": "/"}]}]


class Marking(Declarative):
    """Leaves its mark on whatever gadget is made."""

    async def boot(self, context: Any) -> None:
        async def mark(_: HookContext, values: dict[str, Any]) -> dict[str, Any]:
            return {**values, "name": f"{values['name']} (crm)"}

        context.interceptors.register("crm", "gadgets::create", mark)


@dataclass
class World:
    kernel: App
    host: Host
    client: httpx2.AsyncClient
    ada: dict[str, str]
    eve: dict[str, str]
    organization: uuid.UUID

    async def made_by(self, headers: dict[str, str]) -> str:
        reply = await self.client.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=headers)
        assert reply.status_code == 201
        return str(reply.json()["data"]["name"])

    async def menu(self) -> dict[str, list[str]]:
        groups = await self.host.navigation(self.organization, CORE)
        return {group.title: [item.title for item in group.items] for group in groups}

    async def change(self, what: Callable[[str, uuid.UUID], Awaitable[Any]]) -> None:
        """Change the addon in Ada's organization, and have it served."""
        await what("crm", self.organization)
        await self.kernel.loader.load()


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'host.db'}"
    urls: DatabaseUrls = request.getfixturevalue("database_urls")
    return urls.owner


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    kernel = new_app(database_url)
    host = Host(HostConfig(kernel.database, "3.0.0", {}, app=kernel)).register_compiled("crm", Marking(MANIFEST))
    web = FastAPI()
    kernel.mount(web)
    async with started(web) as client:
        await host.boot()
        ada, eve = await asyncio.gather(*(register(client, f"{name}@example.com") for name in ("ada", "eve")))
        me = (await client.get("/api/auth/me", headers=ada)).json()["data"]["user"]
        yield World(kernel, host, client, ada, eve, uuid.UUID(me["organization_id"]))


async def test_interceptors_of_an_addon_act_where_it_is_enabled(world: World) -> None:
    lifecycles = world.host.lifecycles
    assert await world.made_by(world.ada) == "Lamp"
    await world.change(lifecycles.install)
    assert await world.made_by(world.ada) == "Lamp (crm)"
    assert await world.made_by(world.eve) == "Lamp"
    await world.change(lifecycles.disable)
    assert await world.made_by(world.ada) == "Lamp"
    await world.change(lifecycles.enable)
    assert await world.made_by(world.ada) == "Lamp (crm)"
    await world.change(lifecycles.uninstall)
    assert await world.made_by(world.ada) == "Lamp"


async def test_interceptors_of_the_host_itself_act_everywhere(world: World) -> None:
    async def number(_: HookContext, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "name": f"{values['name']} 1"}

    world.host.interceptors.register("shop", "gadgets::create", number)
    assert [await world.made_by(who) for who in (world.ada, world.eve)] == ["Lamp 1", "Lamp 1"]
    assert world.host.interceptors.remove("shop") == 1
    assert await world.made_by(world.eve) == "Lamp"


async def test_the_menu_holds_what_serves(world: World) -> None:
    bare, full = {"Main": ["Home"]}, {"Main": ["Home", "Pipeline"], "CRM": ["Leads"]}
    lifecycles = world.host.lifecycles
    assert await world.menu() == bare
    await world.change(lifecycles.install)
    assert await world.menu() == full
    await world.change(lifecycles.disable)
    assert await world.menu() == bare
    await world.change(lifecycles.enable)
    await world.host.installer.fence("crm", "recalled")
    await world.kernel.loader.load()
    assert await world.menu() == bare
    assert await world.made_by(world.ada) == "Lamp"


async def test_a_host_without_an_app_knows_the_menu_of_its_addons(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    try:
        await create_all(database)
        acme, globex = await make_organization(database), await make_organization(database, "Globex")
        host = Host(HostConfig(database, "3.0.0", {})).register_compiled("crm", Declarative(MANIFEST))
        await host.boot()
        await host.lifecycles.install("crm", acme)
        assert [group.title for group in await host.navigation(acme, CORE)] == ["Main", "CRM"]
        assert [group.title for group in await host.navigation(globex, CORE)] == ["Main"]
        await host.lifecycles.disable("crm", acme)
        assert [group.title for group in await host.navigation(acme, CORE)] == ["Main"]
    finally:
        await database.close()


async def test_a_database_without_tables_is_told_so(tmp_path: Path) -> None:
    kernel = new_app(f"sqlite:///{tmp_path / 'empty.db'}", run_migrations=None, create_tables=False)
    with pytest.raises(Misconfigured, match=r"holds no tables of the kernel: run `metacore migrate`"):
        await kernel.start()


@pytest.mark.parametrize("secret", ["short", [], ["x" * 32, "short"]])
def test_a_secret_that_cannot_sign_is_told_where_it_is_set(tmp_path: Path, secret: Any) -> None:
    with pytest.raises(Misconfigured, match=r"METACORE_JWT_SECRETS .*AppConfig\.jwt_secret"):
        new_app(f"sqlite:///{tmp_path / 'x.db'}", jwt_secret=secret)


@pytest.mark.parametrize("prefix", ["api", "//x", "/a//b"])
def test_a_prefix_that_is_no_path_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(Misconfigured, match="prefix"):
        new_app(f"sqlite:///{tmp_path / 'x.db'}").mount(FastAPI(), prefix)
