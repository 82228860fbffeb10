"""A running kernel hears of changes made elsewhere: by notification, and by heartbeat when that got lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.addons import loader as loading
from metacore.addons.heartbeat import Heartbeat
from metacore.addons.live_models import ModelReader
from metacore.addons.loader import Loader
from metacore.addons.stored import read_picture
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.ids import OrganizationId
from metacore.installer.execute import Installer
from metacore.registry import Registry

RARELY = 3600.0


@dataclass
class Kernel:
    """The part of a kernel process that follows the registry. `served` gets every new revision."""

    registry: Registry
    loader: Loader
    heartbeat: Heartbeat
    served: Arrivals[int]
    told: Arrivals[int]


@asynccontextmanager
async def kernel(database: Database, *, listening: bool, interval: float = RARELY) -> AsyncIterator[Kernel]:
    async with AsyncExitStack() as stack:
        registry, served, told = Registry(), Arrivals[int](), Arrivals[int]()
        registry.on_change(lambda snapshot: served(snapshot.revision))
        listener = Listener(database.direct_url) if listening else None
        loader = Loader(database, registry, listener=listener, trusted=TRUSTED)
        heartbeat = Heartbeat(database, loader, pod="pod-1", interval=interval)

        async def tell() -> None:
            await heartbeat.told()
            told(loader.revision)

        loader.on_loaded(tell)
        if listener is not None:
            await listener.start()
            stack.push_async_callback(listener.stop)
        await loader.start()
        stack.push_async_callback(loader.stop)
        await heartbeat.start()
        stack.push_async_callback(heartbeat.stop)
        yield Kernel(registry, loader, heartbeat, served, told)


async def install(owner: Database, organization: OrganizationId) -> int:
    content, signature = signed(make_bundle(tickets_manifest()))
    report = await Installer(owner).install(content, signature, trusted=TRUSTED, organizations=[organization])
    return report.revision


async def test_a_notification_brings_a_change_at_once_and_the_heartbeat_tells_it(
    owner_db: Database, kernel_db: Database
) -> None:
    acme = await make_organization(owner_db)
    async with kernel(kernel_db, listening=True) as running:
        revision = await install(owner_db, acme)
        await running.served.reach_item(revision)
        assert running.registry.model_for("Ticket", acme)
        await running.told.reach_item(revision)
        row = await kernel_db.postgres.fetchrow("SELECT revision, addons FROM metacore_heartbeats")
    assert row is not None and row["revision"] == revision
    assert b'"tickets"' in row["addons"]


async def test_when_the_notification_is_lost_the_heartbeat_notices(owner_db: Database, kernel_db: Database) -> None:
    acme = await make_organization(owner_db)
    async with kernel(kernel_db, listening=False, interval=0.02) as running:
        revision = await install(owner_db, acme)
        await running.served.reach_item(revision)
        assert running.registry.model_for("Ticket", acme)


async def test_on_sqlite_the_heartbeat_is_all_there_is(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    async with kernel(sqlite_db, listening=False, interval=0.02) as running:
        revision = await install(sqlite_db, acme)
        await running.served.reach_item(revision)
        assert running.registry.model_for("Ticket", acme)


async def test_every_kernel_on_the_database_follows(database_urls: DatabaseUrls, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    async with AsyncExitStack() as stack:
        kernels = []
        for _ in range(3):
            database = await Database.connect(database_urls.kernel, pool_size=2)
            stack.push_async_callback(database.close)
            kernels.append(await stack.enter_async_context(kernel(database, listening=True)))
        revision = await install(owner_db, acme)
        for running in kernels:
            await running.served.reach_item(revision)
            assert running.registry.model_for("Ticket", acme)


async def test_a_kernel_starts_while_the_database_cannot_be_read_and_loads_later(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    acme = await make_organization(owner_db)
    revision = await install(owner_db, acme)
    read, failing = read_picture, [True]

    async def sometimes(database: Database) -> Any:
        if failing[0]:
            raise ConnectionRefusedError("not now")
        return await read(database)

    monkeypatch.setattr(loading, "read_picture", sometimes)
    async with kernel(kernel_db, listening=False, interval=0.02) as running:
        assert not running.registry.loaded
        failing[0] = False
        await running.served.reach_item(revision)
        assert running.registry.loaded
    assert "registry.load_failed" in caplog.text


async def test_a_heartbeat_tries_an_addon_again_that_failed_for_a_reason_that_passes(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    acme = await make_organization(owner_db)
    revision = await install(owner_db, acme)
    read, failing = ModelReader.read, [True]

    async def sometimes(*arguments: Any) -> Any:
        if failing[0]:
            raise ConnectionResetError("not now")
        return await read(*arguments)

    monkeypatch.setattr(ModelReader, "read", sometimes)
    async with kernel(kernel_db, listening=False) as running:
        assert running.loader.status()["tickets"]["error"]
        failing[0] = False
        await running.heartbeat.beat()
        await running.told.reach(1)
        assert running.loader.revision == revision
        assert running.registry.model_for("Ticket", acme)


async def test_a_load_that_fails_leaves_the_old_picture_serving(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    acme = await make_organization(owner_db)
    registry = Registry()
    loader = Loader(kernel_db, registry, trusted=TRUSTED)
    await install(owner_db, acme)
    await loader.start()
    tried = Arrivals[int]()

    async def broken(database: Database) -> Any:
        tried(1)
        raise ConnectionRefusedError("not now")

    monkeypatch.setattr(loading, "read_picture", broken)
    loader.seen(loader.revision + 1)
    await tried.reach(1)
    await loader.stop()
    assert registry.model_for("Ticket", acme)


async def test_a_slow_load_does_not_hold_up_heartbeats(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await make_organization(owner_db)
    read, gate, entered = read_picture, asyncio.Event(), Arrivals[int]()
    async with kernel(kernel_db, listening=False) as running:

        async def slow(database: Database) -> Any:
            entered(1)
            await gate.wait()
            return await read(database)

        monkeypatch.setattr(loading, "read_picture", slow)
        revision = await install(owner_db, acme)
        await running.heartbeat.beat()
        await entered.reach(1)
        await running.heartbeat.beat()
        gate.set()
        await running.served.reach_item(revision)


async def test_a_callback_that_fails_does_not_end_the_following(
    owner_db: Database, kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    acme = await make_organization(owner_db)
    async with kernel(kernel_db, listening=True) as running:

        async def fails() -> None:
            raise RuntimeError("broken callback")

        running.loader.on_loaded(fails)
        first = await install(owner_db, acme)
        await running.told.reach_item(first)
        second = await Installer(owner_db).disable("tickets", acme)
        await running.served.reach_item(second)
    assert "registry.callback_failed" in caplog.text
