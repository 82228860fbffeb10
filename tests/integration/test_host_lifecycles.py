"""Addons that a host links in: installing them for one more organization decides nothing anew for the others."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest
from tests.factories import make_organization
from tests.tickets import tickets_manifest

from metacore import Declarative, Host, HostConfig
from metacore.addons.lifecycle import LINKED_IN
from metacore.bundle.write import write_bundle
from metacore.db.database import Database
from metacore.manifest.model import Capability

NARROW = Capability(kind="event:emit", target="tickets.made", reason="")
MORE = {"kind": "event:subscribe", "target": "orders.*", "reason": "hears"}


class World:
    """A host whose own decision about the addon stands before anybody else has it."""

    def __init__(self, owner: Database, acme: uuid.UUID, globex: uuid.UUID) -> None:
        self.owner, self.acme, self.globex = owner, acme, globex

    def host(self, **manifest: Any) -> Host:
        host = Host(HostConfig(db=self.owner, kernel_version="3.0.0"))
        return host.register_compiled("tickets", Declarative(tickets_manifest(**manifest)))

    async def decides(self) -> None:
        content = write_bundle({"manifest.json": orjson.dumps(tickets_manifest())})
        await self.host().installer.install(
            content,
            None,
            trusted=LINKED_IN,
            organizations=[self.acme],
            source="compiled",
            mode="enforce",
            grants=[NARROW],
        )

    async def stands(self) -> tuple[str, str, list[str], str]:
        row = await self.owner.postgres.fetchrow("SELECT version, mode, grants, fenced_reason FROM metacore_addons")
        assert row is not None
        grants = [f"{one['kind']} {one['target']}" for one in orjson.loads(row["grants"])]
        return row["version"], row["mode"], grants, row["fenced_reason"]


@pytest.fixture
async def world(owner_db: Database) -> World:
    return World(owner_db, await make_organization(owner_db), await make_organization(owner_db, "Globex"))


async def test_the_first_installation_is_granted_what_the_manifest_declares(world: World) -> None:
    secret = await world.host().lifecycles.install("tickets", world.acme)
    assert len(bytes.fromhex(secret)) == 32
    assert await world.stands() == ("1.0.0", "inherit", ["event:emit tickets.*"], "")


async def test_one_more_organization_leaves_mode_grants_and_fence_alone(world: World) -> None:
    await world.decides()
    await world.host().installer.fence("tickets", "recalled")
    for organization in (world.globex, world.acme):
        await world.host().lifecycles.install("tickets", organization)
        assert await world.stands() == ("1.0.0", "enforce", ["event:emit tickets.made"], "recalled")
    found = await world.owner.postgres.fetch("SELECT organization_id FROM metacore_installations")
    assert {row["organization_id"] for row in found} == {world.acme, world.globex}


async def test_a_changed_manifest_keeps_the_mode_and_is_granted_what_it_declares(world: World) -> None:
    await world.decides()
    await world.host(version="1.1.0", capabilities=[MORE]).lifecycles.install("tickets", world.globex)
    assert await world.stands() == ("1.1.0", "enforce", ["event:subscribe orders.*"], "")
