"""Jobs in the database: run once by somebody, in turn, again when they fail, and elsewhere when a kernel dies."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.job_world import Handlers, World, busy_manifest, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs import retry
from metacore.addons.jobs.job import ClaimedJob
from metacore.addons.jobs.service import Jobs
from metacore.addons.jobs.store import PostgresJobs
from metacore.addons.jobs.view import jobs_of, try_again
from metacore.db.database import Database
from metacore.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from metacore.installer.job_rows import WEBHOOK, Work


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)


@pytest.fixture
async def world(owner_db: Database, database_urls: DatabaseUrls) -> AsyncIterator[World]:
    async with job_world(owner_db, database_urls.kernel) as made:
        yield made


def work(organization: uuid.UUID, function: str = "work", **changes: object) -> Work:
    values: dict[str, object] = {
        "organization_id": organization,
        "addon_key": "tickets",
        "kind": WEBHOOK,
        "name": function,
        "handler": {"kind": "compiled", "function": function, "url": ""},
        **changes,
    }
    return Work(**values)  # type: ignore[arg-type]


async def settled(world: World, count: int) -> None:
    await world.until(count, "status IN ('done', 'failed')")


async def test_a_job_runs_once_and_under_its_own_id(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    kernels = [await world.start() for _ in range(3)]
    jobs = [work(acme, payload={"n": number}) for number in range(20)]
    for job in jobs:
        assert await kernels[0].jobs.enqueue(job)
    await settled(world, 20)
    seen = [each for kernel in kernels for each in kernel.handlers.seen.items]
    assert sorted(each.id for each in seen) == sorted(job.id for job in jobs)
    assert {(each.addon_key, each.organization_id, each.trigger) for each in seen} == {("tickets", acme, "webhook")}
    assert {each.payload["n"] for each in seen} == set(range(20))
    assert {row.status for row in await world.jobs()} == {"done"}


async def test_what_is_enqueued_twice_under_one_name_is_one_job(world: World) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(), acme, other)
    kernel = await world.start()
    written = await asyncio.gather(*(kernel.jobs.enqueue(work(acme, dedup="order-7")) for _ in range(5)))
    assert sorted(written) == [False, False, False, False, True]
    assert await kernel.jobs.enqueue(work(other, dedup="order-7"))
    await settled(world, 2)
    assert len(kernel.handlers.seen.items) == 2


async def test_a_job_that_fails_is_tried_again_with_the_same_id_and_then_done(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()

    async def third_time_lucky(_invocation: Invocation) -> Result:
        return Result(len(handlers.seen.items) >= 3, code="not_yet", message="come back")

    handlers.on("work", third_time_lucky)
    kernel = await world.start(handlers)
    job = work(acme)
    await kernel.jobs.enqueue(job)
    await settled(world, 1)
    assert [each.id for each in handlers.seen.items] == [job.id] * 3
    row = (await world.jobs())[0]
    assert (row.status, row.attempts, row.last_error) == ("done", 3, "")


async def test_a_job_that_always_fails_ends_as_failed_and_stays_to_be_seen(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()

    async def never(_invocation: Invocation) -> Result:
        return Result(False, code="broken", message="no such table")

    async def explode(_invocation: Invocation) -> Result:
        raise RuntimeError("the password is hunter2")

    handlers.on("never", never)
    handlers.on("explode", explode)
    kernel = await world.start(handlers)
    await kernel.jobs.enqueue(work(acme, "never", max_attempts=3))
    await kernel.jobs.enqueue(work(acme, "explode", max_attempts=2))
    await kernel.jobs.enqueue(work(acme, "missing", max_attempts=2))
    await kernel.jobs.enqueue(work(acme, "fine"))
    await settled(world, 4)
    rows = {row.name: row for row in await world.jobs()}
    assert (rows["never"].status, rows["never"].attempts) == ("failed", 3)
    assert rows["never"].last_error == "broken: no such table"
    assert rows["explode"].status == "failed"
    assert rows["explode"].last_error == "the kernel failed: RuntimeError"
    assert rows["missing"].last_error.startswith("unknown_function: ")
    assert rows["fine"].status == "done"
    text = (await asyncio.to_thread(kernel.metrics.render)).decode()
    assert 'metacore_jobs_total{addon="tickets",kind="webhook",outcome="failed"} 3.0' in text


async def test_people_can_have_a_failed_job_tried_again(world: World, kernel_db: Database) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()
    broken = True

    async def until_mended(_invocation: Invocation) -> Result:
        return Result(not broken, code="broken")

    handlers.on("work", until_mended)
    kernel = await world.start(handlers)
    job = work(acme, max_attempts=2)
    await kernel.jobs.enqueue(job)
    await settled(world, 1)
    with pytest.raises(NotFound):
        await try_again(kernel_db, other, job.id)
    broken = False
    assert (await try_again(kernel_db, acme, job.id))["status"] == "pending"
    await settled(world, 1)
    assert (await world.jobs())[0].status == "done"
    with pytest.raises(Conflict, match="only a failed one"):
        await try_again(kernel_db, acme, job.id)


async def test_a_list_of_jobs_is_of_one_organization_and_tells_no_payload(world: World, kernel_db: Database) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(), acme, other)
    kernel = await world.start()
    for number in range(3):
        await kernel.jobs.enqueue(work(acme, payload={"secret": number}))
    await kernel.jobs.enqueue(work(other))
    await settled(world, 4)
    page = await jobs_of(kernel_db, acme, {"status": "done", "kind": "webhook", "addon": "tickets"}, per_page=2)
    assert (page.total, page.last_page, len(page.rows)) == (3, 2, 2)
    assert "secret" not in str(page.rows)
    assert (await jobs_of(kernel_db, acme, {"status": "failed"})).total == 0
    with pytest.raises(InvalidInput, match="status must be one of"):
        await jobs_of(kernel_db, acme, {"status": "lost"})


async def test_when_there_is_no_room_a_try_does_not_count(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()

    async def crowded(_invocation: Invocation) -> Result:
        if len(handlers.seen.items) < 3:
            raise TooManyRequests("all threads are busy")
        return Result(True)

    handlers.on("work", crowded)
    kernel = await world.start(handlers)
    await kernel.jobs.enqueue(work(acme, max_attempts=1))
    await settled(world, 1)
    row = (await world.jobs())[0]
    assert (row.status, row.attempts, len(handlers.seen.items)) == ("done", 1, 3)


async def test_no_addon_and_no_organization_takes_all_the_room(world: World) -> None:
    acme, small = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(), acme, small)
    await world.install(busy_manifest("notes"), acme)
    handlers = Handlers()
    gate = asyncio.Event()

    async def stand_still(_invocation: Invocation) -> Result:
        await gate.wait()
        return Result(True)

    handlers.on("slow", stand_still)
    starter = await world.start(concurrency=1)
    await starter.jobs.stop()
    for _ in range(30):
        await starter.jobs.enqueue(work(acme, "slow"))
    await starter.jobs.enqueue(work(small, "slow"))
    await starter.jobs.enqueue(work(acme, "quick", addon_key="notes"))
    kernel = await world.start(handlers, concurrency=4)
    await handlers.seen.reach(3)
    # Two of four places are one addon's share; the small organization has one of them, and the other addon got through.
    await settled(world, 1)
    running = await world.jobs("status = 'running'")
    assert sorted(row.organization_id for row in running) == sorted([acme, small])
    assert {row.addon_key for row in running} == {"tickets"}
    assert kernel.jobs.worker.busy == 2
    gate.set()
    await settled(world, 32)


async def test_jobs_of_one_lane_run_one_after_the_other(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()
    inside = 0
    most = 0

    async def alone(invocation: Invocation) -> Result:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        tries = [each for each in handlers.seen.items if each.id == invocation.id]
        return Result(invocation.payload["n"] != 1 or len(tries) == 2, code="again")

    handlers.on("work", alone)
    kernels = [await world.start(handlers) for _ in range(2)]
    for number in range(6):
        await kernels[number % 2].jobs.enqueue(work(acme, lane="steps", payload={"n": number}))
    await settled(world, 6)
    assert [each.payload["n"] for each in handlers.seen.items] == [0, 1, 1, 2, 3, 4, 5]
    assert most == 1


async def test_a_worker_that_stops_gives_back_what_it_could_not_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metacore.addons.jobs.worker.STOP_SECONDS", 0.05)
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()

    async def forever(_invocation: Invocation) -> Result:
        await asyncio.Event().wait()
        return Result(True)

    handlers.on("work", forever)
    first = await world.start(handlers)
    job = work(acme)
    await first.jobs.enqueue(job)
    await handlers.seen.reach(1)
    await first.jobs.stop()
    row = (await world.jobs())[0]
    assert (row.status, row.attempts, row.leased_by) == ("pending", 0, "")
    second = await world.start()
    await settled(world, 1)
    assert [each.id for each in second.handlers.seen.items] == [job.id]


async def test_a_worker_that_stops_while_it_takes_gives_back_what_it_was_given(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    given, arrive = asyncio.Event(), asyncio.Event()

    async def claim_with_a_slow_answer(store: PostgresJobs, *arguments: Any) -> list[ClaimedJob]:
        jobs = await claim(store, *arguments)
        if jobs:
            given.set()
            await arrive.wait()
        return jobs

    claim = PostgresJobs.claim
    monkeypatch.setattr(PostgresJobs, "claim", claim_with_a_slow_answer)
    handlers = Handlers()
    first = await world.start(handlers)
    await first.jobs.enqueue(work(acme))
    await given.wait()
    stopping = asyncio.create_task(first.jobs.stop())
    await asyncio.sleep(0)
    assert (await world.jobs())[0].status == "running"
    arrive.set()
    await stopping
    row = (await world.jobs())[0]
    # It ran before the worker ended; nobody waits for a lease.
    assert (row.status, row.leased_by) == ("done", "")
    assert len(handlers.seen.items) == 1


async def test_a_job_whose_answer_was_lost_is_not_kept_by_the_one_who_does_not_know_of_it(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    handlers = Handlers()
    gate = asyncio.Event()

    async def long(invocation: Invocation) -> Result:
        if invocation.payload["n"] == 0:
            await gate.wait()
        return Result(True)

    handlers.on("work", long)
    kernel = await world.start(handlers, lease=0.6, poll=0.2)
    hour = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    lost = work(acme, payload={"n": 1}, run_at=hour, status="waiting")
    await kernel.jobs.enqueue(lost)
    await kernel.jobs.enqueue(work(acme, payload={"n": 0}))
    await handlers.seen.reach(1)
    await world.execute(
        "UPDATE metacore_jobs SET status = 'running', leased_by = :name, leased_until = now() + interval '1 second'"
        " WHERE id = :id",
        name=kernel.jobs.name,
        id=lost.id,
    )
    # It renews the long one all the time, and takes the other one when its lease has run out.
    await handlers.seen.reach(2)
    assert [each.payload["n"] for each in handlers.seen.items] == [0, 1]
    gate.set()
    await settled(world, 2)


async def test_a_worker_whose_lease_ran_out_does_not_end_the_job_of_the_next(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    slow = Handlers()
    gate = asyncio.Event()

    async def hang(_invocation: Invocation) -> Result:
        await gate.wait()
        return Result(False, code="too_late")

    slow.on("work", hang)
    first = await world.start(slow, concurrency=1)
    job = work(acme)
    await first.jobs.enqueue(job)
    await slow.seen.reach(1)
    # As if this process had stood still for longer than its lease.
    await world.execute("UPDATE metacore_jobs SET leased_until = now() - interval '1 second'")
    second = await world.start()
    await second.handlers.seen.reach(1)
    await settled(world, 1)
    gate.set()
    await first.jobs.stop()
    row = (await world.jobs())[0]
    assert (row.status, row.last_error, row.attempts) == ("done", "the kernel that ran it ended or hung", 2) or (
        row.status,
        row.last_error,
    ) == ("done", "")


async def test_a_job_that_kills_every_kernel_is_given_up(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    kernel = await world.start()
    await kernel.jobs.stop()
    await kernel.jobs.enqueue(work(acme, max_attempts=2))
    # Two kernels took it and were never heard of again.
    await world.execute(
        "UPDATE metacore_jobs SET status = 'running', attempts = 2, leased_by = 'gone',"
        " leased_until = now() - interval '1 second'"
    )
    second = await world.start()
    await settled(world, 1)
    row = (await world.jobs())[0]
    assert (row.status, row.last_error) == ("failed", "the kernel that ran it ended or hung")
    assert second.handlers.seen.items == []


async def test_a_job_of_a_later_time_waits_for_it_without_being_asked_for(world: World) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    kernel = await world.start()
    due = await kernel_due(kernel.jobs)
    assert due is None
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.3)
    await kernel.jobs.enqueue(work(acme, status="waiting", run_at=soon))
    await settled(world, 1)
    assert (await world.jobs())[0].started_at >= soon


async def kernel_due(jobs: Jobs) -> float | None:
    return await jobs.worker._store.next_due()


@pytest.mark.parametrize("status", ["disabled", "fenced"])
async def test_code_that_must_not_run_does_not(world: World, status: str) -> None:
    acme = await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    if status == "disabled":
        await world.installer.disable("tickets", acme)
    else:
        await world.installer.fence("tickets", "key removed")
    kernel = await world.start()
    await kernel.jobs.enqueue(work(acme, max_attempts=2))
    await settled(world, 1)
    row = (await world.jobs("kind = 'webhook'"))[0]
    assert row.status == "failed"
    assert row.last_error.startswith("fenced" if status == "fenced" else "unknown_addon")
    assert kernel.handlers.seen.items == []


async def test_one_tenant_cannot_write_or_see_jobs_of_another(world: World, kernel_db: Database) -> None:
    acme, other = await make_organization(world.owner), await make_organization(world.owner)
    await world.install(busy_manifest(), acme)
    kernel = await world.start()
    await kernel.jobs.enqueue(work(acme))
    await settled(world, 1)
    async with kernel_db.transaction(other) as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM metacore_jobs")).scalar_one() == 0
        assert (await connection.exec_driver_sql("DELETE FROM metacore_jobs")).rowcount == 0


async def test_a_backlog_is_taken_in_index_order_whatever_the_planner_believes(world: World) -> None:
    """Statistics were taken when nothing was due; then an addon floods, and a hundred organizations have a job each."""
    await world.execute(
        "INSERT INTO organizations (id, name) SELECT gen_random_uuid(), 'o' || g FROM generate_series(1, 100) g"
    )
    row = "gen_random_uuid(), organizations.id, 'addon' || n, 'webhook', 't', 'idle'"
    await world.execute(
        "INSERT INTO metacore_jobs (id, organization_id, addon_key, kind, name, status)"
        f" SELECT {row} FROM organizations, generate_series(1, 10) n"
    )
    await world.execute("ANALYZE metacore_jobs")
    await world.execute("UPDATE metacore_jobs SET status = 'pending'")
    await world.execute(
        "INSERT INTO metacore_jobs (id, organization_id, addon_key, kind, name, status)"
        " SELECT gen_random_uuid(), (SELECT min(id::text)::uuid FROM organizations), 'flood', 'webhook', 't', 'pending'"
        " FROM generate_series(1, 5000)"
    )
    async with world.owner.transaction(None) as connection:
        before = await connection.exec_driver_sql(READS)
        taken = (await connection.exec_driver_sql("SELECT * FROM metacore_claim_jobs('w', 11, 8, 30.0)")).all()
        read = (await connection.exec_driver_sql(READS)).scalar_one() - before.scalar_one()
    # One of each of the eleven addons, and about one row read per addon and organization, not the backlog for each.
    assert len({job.addon_key for job in taken}) == 11
    assert read < 30_000


READS = """
SELECT pg_stat_get_xact_tuples_fetched('metacore_jobs'::regclass)
  + (SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
     WHERE indrelid = 'metacore_jobs'::regclass)
"""
