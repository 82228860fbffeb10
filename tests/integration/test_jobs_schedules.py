"""Schedules: one run per organization over all kernels, at a place of their own, never two at once."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import AsyncIterator

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.job_world import Handlers, World, busy_manifest, compiled, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs import retry
from metacore.db.database import Database
from metacore.ids import new_uuid
from metacore.installer.handlers import place_of
from metacore.manifest.timing import next_run

RARE = {"key": "tick", "every": "30d", "do": compiled("tick")}
BACK = itertools.count(3600)
QUICK = {"key": "tick", "every": "1s", "do": compiled("tick")}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)


@pytest.fixture
async def world(owner_db: Database, database_urls: DatabaseUrls) -> AsyncIterator[World]:
    async with job_world(owner_db, database_urls.kernel) as made:
        yield made


async def make_due(world: World) -> None:
    """As if a month had passed for every schedule, and this were another slot."""
    await world.execute(
        "UPDATE metacore_jobs SET run_at = run_at - interval '30 days', progress = progress - :back"
        " WHERE kind = 'schedule'",
        back=next(BACK),
    )
    await world.execute("NOTIFY metacore_jobs")


async def test_each_organization_has_its_own_row_at_its_own_time(world: World) -> None:
    organizations = [await make_organization(world.owner) for _ in range(8)]
    await world.install(busy_manifest(schedules=[RARE]), *organizations)
    rows = await world.jobs("kind = 'schedule'")
    assert sorted(row.organization_id for row in rows) == sorted(organizations)
    assert {(row.name, row.status, row.every) for row in rows} == {("tick", "waiting", "30d")}
    assert len({row.run_at for row in rows}) == 8
    now = datetime.datetime.now(datetime.UTC)
    assert all(now < row.run_at <= now + datetime.timedelta(days=30) for row in rows)


async def test_a_slot_runs_once_over_all_kernels_and_the_next_one_lies_ahead(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[RARE]), acme, other)
    handlers = Handlers()
    for _ in range(3):
        await world.start(handlers)
    await make_due(world)
    await handlers.seen.reach(2)
    rows = await world.until(2, "kind = 'schedule'", "status = 'waiting'", "run_at > now()")
    assert sorted(each.organization_id for each in handlers.seen.items) == sorted([acme, other])
    assert {each.trigger for each in handlers.seen.items} == {"schedule"}
    assert all(each.caller == "schedule:tick" and each.payload["slot"] for each in handlers.seen.items)
    assert {row.attempts for row in rows} == {0}
    await make_due(world)
    await handlers.seen.reach(4)
    assert len({each.id for each in handlers.seen.items}) == 4


async def test_what_was_missed_for_days_is_caught_up_once(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[RARE]), acme)
    for _ in range(72):
        await make_due(world)
    kernel = await world.start()
    await kernel.handlers.seen.reach(1)
    (row,) = await world.until(1, "status = 'waiting'", "run_at > now()")
    assert len(kernel.handlers.seen.items) == 1
    assert row.run_at <= datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)


async def test_a_run_that_takes_longer_than_its_interval_is_not_joined_by_another(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[QUICK]), acme)
    handlers, gate = Handlers(), asyncio.Event()

    async def hang(_invocation: Invocation) -> Result:
        await gate.wait()
        return Result(True)

    handlers.on("tick", hang)
    for _ in range(2):
        await world.start(handlers)
    await handlers.seen.reach(1)
    # Slots pass: had there been another run, it would have begun by the time that a later job of the same kernel did.
    for _ in range(3):
        await make_due(world)
    (row,) = await world.jobs("kind = 'schedule'")
    assert (row.status, len(handlers.seen.items)) == ("running", 1)
    gate.set()
    await handlers.seen.reach(2)


async def test_a_slot_that_fails_is_tried_again_under_the_same_id_and_then_left(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[RARE]), acme)
    handlers = Handlers()

    async def broken(_invocation: Invocation) -> Result:
        return Result(False, code="no_mail", message="the server is away")

    handlers.on("tick", broken)
    await world.start(handlers)
    await make_due(world)
    await handlers.seen.reach(8)
    (row,) = await world.until(1, "status = 'waiting'", "attempts = 0", "run_at > now() + interval '1 second'")
    assert row.last_error == "no_mail: the server is away"
    assert len({each.id for each in handlers.seen.items}) == 1
    assert len(handlers.seen.items) == 8


async def test_a_new_manifest_counts_at_once(world: World) -> None:
    acme = await make_organization(world.owner)
    nightly = {"key": "nightly", "every": "0 3 * * *", "do": compiled("night")}
    await world.install(busy_manifest(schedules=[RARE, nightly]), acme)
    before = {row.name: row for row in await world.jobs()}
    later = [{**RARE, "do": compiled("tock")}, {**nightly, "every": "0 4 * * *"}, {**QUICK, "key": "new"}]
    await world.install(busy_manifest(version="1.1.0", schedules=later), acme)
    rows = {row.name: row for row in await world.jobs()}
    assert set(rows) == {"tick", "nightly", "new"}
    assert rows["tick"].run_at == before["tick"].run_at
    assert rows["tick"].handler["function"] == "tock"
    assert rows["nightly"].run_at.astimezone(datetime.UTC).hour == 4
    await world.install(busy_manifest(version="1.2.0"), acme)
    assert await world.jobs() == []


async def test_a_schedule_rests_while_its_addon_is_disabled_or_gone(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[RARE]), acme, other)
    await world.installer.disable("tickets", acme)
    kernel = await world.start()
    await make_due(world)
    await kernel.handlers.seen.reach(1)
    assert [each.organization_id for each in kernel.handlers.seen.items] == [other]
    assert {row.organization_id: row.status for row in await world.jobs()}[acme] == "paused"
    await world.installer.enable("tickets", acme)
    (row,) = await world.jobs(f"organization_id = '{acme}'")
    assert row.status == "waiting"
    assert row.run_at > datetime.datetime.now(datetime.UTC)
    await world.installer.uninstall("tickets", acme, drop=True)
    assert [row.organization_id for row in await world.jobs()] == [other]


async def test_a_fenced_addon_s_schedule_runs_nothing_and_comes_back(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(schedules=[RARE]), acme)
    await world.installer.fence("tickets", "key removed")
    kernel = await world.start()
    await make_due(world)
    (row,) = await world.until(1, "last_error <> ''", "status = 'waiting'")
    assert row.last_error.startswith("fenced")
    assert kernel.handlers.seen.items == []
    await world.installer.fence("tickets", "")
    await make_due(world)
    await kernel.handlers.seen.reach(1)


def test_two_hundred_organizations_do_not_begin_in_one_second() -> None:
    now = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC)
    for every, spread in (("5m", 300), ("@hourly", 60), ("0 3 * * *", 60)):
        times = [next_run(every, place_of("tickets", new_uuid(), "tick"), now)[1] for _ in range(200)]
        seconds = [int(time.timestamp()) for time in times]
        assert max(seconds) - min(seconds) <= spread
        assert max(seconds.count(second) for second in seconds) <= 20
