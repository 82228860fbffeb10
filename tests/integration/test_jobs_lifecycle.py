"""Handlers of an addon's life: written with the installation, run by a kernel, waited for where that matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.job_world import Handlers, World, busy_manifest, compiled, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs import retry
from metacore.db.database import Database

ALL = {
    "install": compiled("on_install"),
    "enable": compiled("on_enable"),
    "disable": compiled("on_disable"),
    "uninstall": compiled("on_uninstall"),
    "upgrade": [
        {"from": "<1.5.0", "type": "compiled", "function": "from_one"},
        {"from": ">=1.5.0 <2.0.0", "type": "compiled", "function": "from_late_one"},
        {"from": "<3.0.0", "type": "sql", "function": "0002_x"},
        {"from": "<3.0.0", "type": "compiled", "function": "from_any"},
    ],
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)


@pytest.fixture
async def world(owner_db: Database, database_urls: DatabaseUrls) -> AsyncIterator[World]:
    async with job_world(owner_db, database_urls.kernel) as made:
        yield made


def living(version: str = "1.0.0", lifecycle: dict[str, Any] | None = None) -> dict[str, Any]:
    return busy_manifest(version=version, lifecycle=ALL if lifecycle is None else lifecycle)


async def test_install_and_enable_run_once_per_organization_in_order(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    report = await world.install(living(), acme, other)
    handlers = Handlers()
    for _ in range(2):
        await world.start(handlers)
    await world.until(4, "status = 'done'")
    for organization in (acme, other):
        mine = [each for each in handlers.seen.items if each.organization_id == organization]
        assert [each.handler.function for each in mine] == ["on_install", "on_enable"]
        assert [each.payload for each in mine] == [
            {"event": "install", "version": "1.0.0"},
            {"event": "enable", "version": "1.0.0"},
        ]
        assert {(each.trigger, each.digest) for each in mine} == {("lifecycle", report.digest)}
    assert not (await world.install(living(), acme, other)).changed
    assert len(await world.jobs()) == 4


async def test_an_installation_that_is_not_committed_leaves_no_job(world: World) -> None:
    acme = await make_organization(world.owner)

    def die(word: str) -> None:
        if word == "inside install":
            raise RuntimeError("killed")

    world.installer._point = die
    with pytest.raises(RuntimeError):
        await world.install(living(), acme)
    assert await world.jobs() == []


async def test_enable_does_not_begin_before_install_has_come_through(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(living(), acme)
    handlers = Handlers()

    async def third_time(_invocation: Invocation) -> Result:
        return Result(handlers.names().count("on_install") >= 3, code="not_yet")

    handlers.on("on_install", third_time)
    await world.start(handlers)
    await world.until(2, "status = 'done'")
    assert handlers.names() == ["on_install", "on_install", "on_install", "on_enable"]
    assert len({each.id for each in handlers.seen.items[:3]}) == 1


async def test_an_upgrade_runs_the_steps_whose_range_holds_the_former_version(world: World) -> None:
    acme, late = await make_organization(world.owner), await make_organization(world.owner)
    handlers = Handlers()
    await world.start(handlers)
    await world.install(living("1.4.0"), acme)
    await world.until(2, "status = 'done'")
    await world.install(living("2.0.0"), acme, late)
    await world.until(6, "status = 'done'")
    mine = [each for each in handlers.seen.items[2:] if each.organization_id == acme]
    assert [each.handler.function for each in mine] == ["from_one", "from_any"]
    assert mine[0].payload == {"event": "upgrade", "version": "2.0.0", "from": "1.4.0"}
    new = [each.handler.function for each in handlers.seen.items if each.organization_id == late]
    assert new == ["on_install", "on_enable"]


async def test_a_version_that_mends_the_install_handler_is_installed_and_not_upgraded_to(world: World) -> None:
    acme = await make_organization(world.owner)
    handlers = Handlers()

    async def broken(_invocation: Invocation) -> Result:
        return Result(False, code="broken", message="division by zero")

    handlers.on("on_install", broken)
    await world.start(handlers)
    await world.install(living("1.0.0"), acme)
    (failed,) = await world.until(1, "status = 'failed'")
    assert (failed.name, failed.last_error) == ("install", "broken: division by zero")
    await world.until(1, "status = 'done'")
    mended = {**ALL, "install": compiled("on_install_mended")}
    await world.install(living("1.0.1", mended), acme)
    await world.until(3, "status = 'done'")
    assert handlers.names()[-2:] == ["on_install_mended", "on_enable"]
    assert "from_one" not in handlers.names()
    assert await world.jobs("status = 'failed'") == []


async def test_switching_calls_its_handlers_each_time(world: World) -> None:
    acme = await make_organization(world.owner)
    handlers = Handlers()
    await world.start(handlers)
    await world.install(living(), acme)
    for _ in range(2):
        await world.installer.disable("tickets", acme)
        await world.installer.disable("tickets", acme)
        await world.installer.enable("tickets", acme)
    await world.until(6, "status = 'done'")
    assert handlers.names() == ["on_install", "on_enable", *["on_disable", "on_enable"] * 2]
    assert len({each.id for each in handlers.seen.items}) == 6


async def test_the_uninstall_handler_runs_while_the_data_is_there(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    handlers = Handlers()
    found: list[int] = []

    async def look(invocation: Invocation) -> Result:
        async with world.owner.transaction(None) as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM addon_tickets.ticket_kinds")
            found.append(rows.scalar_one())
        return Result(True)

    handlers.on("on_uninstall", look)
    await world.start(handlers)
    await world.install(living(), acme, other)
    await world.installer.uninstall("tickets", acme, drop=True)
    assert found == [4]
    assert [each.organization_id for each in handlers.seen.items if each.name == "uninstall"] == [acme]
    await world.installer.remove("tickets", drop=True)
    assert found == [4, 2]
    async with world.owner.transaction(None) as connection:
        gone = await connection.exec_driver_sql("SELECT to_regclass('addon_tickets.ticket_kinds')")
        assert gone.scalar_one() is None
    assert {row.status for row in await world.jobs()} == {"done"}


async def test_an_addon_whose_farewell_hangs_or_fails_can_still_be_deleted(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    handlers = Handlers()

    async def hang(invocation: Invocation) -> Result:
        if invocation.organization_id == acme:
            await asyncio.Event().wait()
        return Result(False, code="broken")

    handlers.on("on_uninstall", hang)
    await world.start(handlers)
    await world.install(living(), acme, other)
    world.installer._farewell_seconds = 0.5
    await world.installer.uninstall("tickets", acme, drop=True)
    world.installer._farewell_seconds = 20.0
    await world.installer.remove("tickets", drop=True)
    (failed,) = await world.jobs("name = 'uninstall'", "status = 'failed'")
    assert failed.organization_id == other


async def test_without_a_kernel_deleting_does_not_wait(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(living(), acme)
    world.installer._farewell_seconds = 3600.0
    async with asyncio.timeout(20):
        await world.installer.remove("tickets", drop=True)
    assert await world.jobs() == []


async def test_a_fenced_addon_is_deleted_without_its_code(world: World) -> None:
    acme = await make_organization(world.owner)
    handlers = Handlers()
    await world.start(handlers)
    await world.install(living(lifecycle={"uninstall": compiled("on_uninstall")}), acme)
    await world.installer.fence("tickets", "key removed")
    await world.installer.remove("tickets", drop=True)
    assert handlers.seen.items == []
