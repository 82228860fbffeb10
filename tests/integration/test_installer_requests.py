"""Tenants' requests: written by the kernel's role, executed once by whoever holds the owner role."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.factories import make_organization, principal
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.bundle.signature import TrustedKeys
from metacore.db.database import Database
from metacore.errors import InstallFailed, InvalidInput, KeyOwned, NotFound, SignatureRefused, Unavailable
from metacore.identity import Principal
from metacore.installer import request_worker, requests
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.secrets import Sealer

SEALER = Sealer(b"s" * 32)


def worker(owner_db: Database, trusted: TrustedKeys = TRUSTED, installer: Any = None) -> RequestWorker:
    return RequestWorker(owner_db, installer or Installer(owner_db, sealer=SEALER), lambda: trusted, SEALER)


async def ask_install(db: Database, caller: Principal, **manifest: Any) -> uuid.UUID:
    content, signature = signed(make_bundle(tickets_manifest(**manifest)))
    return await requests.submit(db, caller, "install", "tickets", bundle=content, signature=signature)


async def ended(db: Database, caller: Principal, request_id: uuid.UUID) -> requests.RequestOutcome:
    return await requests.outcome(db, caller.organization_id, request_id, sealer=SEALER)


async def test_an_installation_is_asked_for_and_executed(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    request_id = await ask_install(kernel_db, acme)
    before = await ended(kernel_db, acme, request_id)
    assert (before.status, before.finished, before.result, before.error) == ("pending", False, {}, None)
    assert await worker(owner_db).run_pending() == 1
    done = await ended(kernel_db, acme, request_id)
    assert (done.status, done.finished, done.error) == ("done", True, None)
    assert done.result["source"] == "bundle"
    assert done.result["manifest"]["metadata"]["key"] == "tickets"
    installation = done.result["installation"]
    assert installation["organization_id"] == str(acme.organization_id)
    assert (installation["version"], installation["status"]) == ("1.0.0", "enabled")
    assert datetime.datetime.fromisoformat(installation["installed_at"]).tzinfo is not None
    assert await owner_db.postgres.fetchval("SELECT bundle FROM metacore_requests") is None


async def test_the_secret_travels_sealed_and_is_read_once(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    request_id = await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()
    row = await owner_db.postgres.fetchrow("SELECT result::text, sealed_result FROM metacore_requests")
    assert row is not None
    outcome = await ended(kernel_db, acme, request_id)
    secret = outcome.result["install_secret"]
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in str(row["result"])
    assert secret not in row["sealed_result"]
    assert SEALER.open(row["sealed_result"]).decode() == secret
    assert await owner_db.postgres.fetchval("SELECT sealed_result FROM metacore_requests") == ""
    assert "install_secret" not in (await ended(kernel_db, acme, request_id)).result


async def test_of_two_readers_at_once_one_gets_the_secret(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    request_id = await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()
    found = await asyncio.gather(*(ended(kernel_db, acme, request_id) for _ in range(4)))
    assert sum("install_secret" in outcome.result for outcome in found) == 1


async def test_every_kind_of_request_does_its_work(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()

    async def run(kind: str, **arguments: Any) -> requests.RequestOutcome:
        request_id = await requests.submit(kernel_db, acme, kind, "tickets", arguments=arguments)
        await worker(owner_db).run_pending()
        return await ended(kernel_db, acme, request_id)

    async def status() -> str | None:
        found = await owner_db.postgres.fetchval("SELECT status FROM metacore_installations")
        return None if found is None else str(found)

    assert (await run("disable")).result["installation"]["status"] == "disabled"
    assert await status() == "disabled"
    assert (await run("enable")).result["installation"]["status"] == "enabled"
    assert await status() == "enabled"
    assert len((await run("rotate_secret")).result["install_secret"]) == 64
    assert (await run("uninstall", drop=True)).status == "done"
    assert await status() is None
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_schemas") == 0
    failed = await run("enable")
    assert failed.status == "failed"
    assert isinstance(failed.error, NotFound)


async def test_errors_reach_who_asked_as_they_were_raised(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    untrusted = await ask_install(kernel_db, acme)
    await worker(owner_db, TrustedKeys((b"x" * 32,))).run_pending()
    refused = await ended(kernel_db, acme, untrusted)
    assert isinstance(refused.error, SignatureRefused)
    assert refused.error.code == "untrusted"
    assert refused.result == {}
    content, signature = signed(
        make_bundle(tickets_manifest(), {"0001_x.sql": "CREATE TABLE x (organization_id uuid);\nSELECT 1/0;"})
    )
    failing = await requests.submit(kernel_db, acme, "install", "tickets", bundle=content, signature=signature)
    await worker(owner_db).run_pending()
    failed = (await ended(kernel_db, acme, failing)).error
    assert isinstance(failed, InstallFailed)
    assert failed.step == "migration addon_tickets 0001"
    assert "division by zero" in failed.message
    content, signature = signed(make_bundle(tickets_manifest(), {"0001_x.sql": "RESET ROLE;"}))
    hostile = await requests.submit(kernel_db, acme, "install", "tickets", bundle=content, signature=signature)
    await worker(owner_db).run_pending()
    error = (await ended(kernel_db, acme, hostile)).error
    assert error is not None
    assert [problem.field for problem in error.problems] == ["migrations/0001_x.sql:1"]


async def test_a_bundle_of_another_addon_is_refused(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    content, signature = signed(make_bundle(tickets_manifest()))
    request_id = await requests.submit(kernel_db, acme, "install", "other", bundle=content, signature=signature)
    await worker(owner_db).run_pending()
    assert isinstance((await ended(kernel_db, acme, request_id)).error, InvalidInput)
    with pytest.raises(InvalidInput):
        await requests.submit(kernel_db, acme, "install", "tickets")
    with pytest.raises(InvalidInput):
        await requests.submit(kernel_db, acme, "explode", "tickets")


async def test_a_bug_is_not_told_to_the_tenant(owner_db: Database, kernel_db: Database) -> None:
    class Broken:
        async def enable(self, _key: str, _organization: uuid.UUID) -> int:
            raise ZeroDivisionError("internals at /secret/path")

    acme = principal(await make_organization(owner_db))
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    await worker(owner_db, installer=Broken()).run_pending()
    outcome = await ended(kernel_db, acme, request_id)
    assert outcome.error is not None
    assert outcome.error.code == "internal"
    assert "secret" not in outcome.error.message


async def test_a_request_is_seen_by_its_own_organization_only(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db, "Acme"))
    globex = principal(await make_organization(owner_db, "Globex"))
    request_id = await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()
    with pytest.raises(NotFound):
        await ended(kernel_db, globex, request_id)
    assert "install_secret" in (await ended(kernel_db, acme, request_id)).result


async def test_several_workers_execute_each_request_once(owner_db: Database, kernel_db: Database) -> None:
    executed: list[str] = []

    class Counting:
        async def enable(self, key: str, _organization: uuid.UUID) -> int:
            executed.append(key)
            await asyncio.sleep(0)
            return 1

    acme = principal(await make_organization(owner_db))
    keys = [f"addon{number}" for number in range(12)]
    for key in keys:
        await requests.submit(kernel_db, acme, "enable", key)
    counts = await asyncio.gather(*(worker(owner_db, installer=Counting()).run_pending() for _ in range(3)))
    assert sum(counts) == len(keys)
    assert sorted(executed) == sorted(keys)


async def test_requests_of_a_worker_that_died_are_taken_over(owner_db: Database, kernel_db: Database) -> None:
    class Dying:
        async def enable(self, _key: str, _organization: uuid.UUID) -> int:
            raise SystemExit

    acme = principal(await make_organization(owner_db))
    await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    with pytest.raises(SystemExit):
        await worker(owner_db, installer=Dying()).run_pending()
    assert (await ended(kernel_db, acme, request_id)).status == "running"
    assert await worker(owner_db).run_pending() == 0
    await owner_db.postgres.execute("UPDATE metacore_requests SET claimed_at = now() - interval '5 minutes'")
    await owner_db.postgres.execute("UPDATE metacore_requests SET status = 'done' WHERE kind = 'install'")
    assert await worker(owner_db).run_pending() == 1
    assert (await ended(kernel_db, acme, request_id)).status == "done"


async def test_a_request_that_kills_its_workers_is_given_up(owner_db: Database, kernel_db: Database) -> None:
    class Dying:
        async def enable(self, _key: str, _organization: uuid.UUID) -> int:
            raise SystemExit

    acme = principal(await make_organization(owner_db))
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    for _ in range(request_worker.MAX_TRIES):
        with pytest.raises(SystemExit):
            await worker(owner_db, installer=Dying()).run_pending()
        await owner_db.postgres.execute("UPDATE metacore_requests SET claimed_at = now() - interval '5 minutes'")
    assert await worker(owner_db, installer=Dying()).run_pending() == 1
    outcome = await ended(kernel_db, acme, request_id)
    assert isinstance(outcome.error, Unavailable)


async def test_what_is_not_there_just_now_is_tried_again_in_a_while(owner_db: Database, kernel_db: Database) -> None:
    calls = 0

    class Busy:
        async def enable(self, _key: str, _organization: uuid.UUID) -> int:
            nonlocal calls
            calls += 1
            raise Unavailable("a migration holds the addon")

    acme = principal(await make_organization(owner_db))
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    for tries in range(1, request_worker.MAX_TRIES):
        assert await worker(owner_db, installer=Busy()).run_pending() == 0
        assert (calls, (await ended(kernel_db, acme, request_id)).finished) == (tries, False)
        due = await owner_db.postgres.fetchval(
            "SELECT claimed_at + $1 - now() FROM metacore_requests", request_worker.LEASE
        )
        assert datetime.timedelta() < due <= request_worker.LEASE / 2
        await owner_db.postgres.execute("UPDATE metacore_requests SET claimed_at = now() - interval '5 minutes'")

    assert await worker(owner_db, installer=Busy()).run_pending() == 1
    error = (await ended(kernel_db, acme, request_id)).error
    assert isinstance(error, Unavailable) and "a migration holds the addon" in str(error)


@pytest.mark.parametrize("unsigned", [False, True])
async def test_installations_wait_until_it_is_known_who_may_sign_and_nothing_else_does(
    owner_db: Database, kernel_db: Database, unsigned: bool
) -> None:
    """An operator reads the trust from its cluster a moment after it started, or much later."""
    keys = TrustedKeys((), allow_unsigned=True) if unsigned else TRUSTED
    known = False

    def trusted() -> TrustedKeys:
        if not known:
            raise Unavailable("the trusted keys are not known yet")
        return keys

    acme, globex = principal(await make_organization(owner_db)), principal(await make_organization(owner_db))
    await ask_install(kernel_db, acme)
    assert await worker(owner_db).run_pending() == 1
    early = RequestWorker(owner_db, Installer(owner_db, sealer=SEALER), trusted, SEALER)
    content, signature = signed(make_bundle(tickets_manifest()))
    installing = await requests.submit(
        kernel_db, globex, "install", "tickets", bundle=content, signature=None if unsigned else signature
    )
    disabling = await requests.submit(kernel_db, acme, "disable", "tickets")
    for _ in range(request_worker.MAX_TRIES + 1):
        await early.run_pending()
    assert (await ended(kernel_db, acme, disabling)).status == "done"
    waiting = await ended(kernel_db, globex, installing)
    assert (waiting.status, waiting.error) == ("pending", None)

    known = True
    assert await early.run_pending() == 1

    done = await ended(kernel_db, globex, installing)
    assert (done.status, done.error) == ("done", None)


async def test_a_worker_that_is_stopped_gives_its_request_back(owner_db: Database, kernel_db: Database) -> None:
    begun = asyncio.Event()

    class Slow:
        async def enable(self, _key: str, _organization: uuid.UUID) -> int:
            begun.set()
            await asyncio.Event().wait()
            return 1

    acme = principal(await make_organization(owner_db))
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    task = asyncio.create_task(worker(owner_db, installer=Slow()).run_pending())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await ended(kernel_db, acme, request_id)).status == "pending"


@asynccontextmanager
async def running(made: RequestWorker) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_a_running_worker_is_woken_by_a_request(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_worker, "POLL_SECONDS", 3600.0)
    acme = principal(await make_organization(owner_db))
    async with running(worker(owner_db)):
        for kind in ("install", "disable", "enable"):
            request_id = (
                await ask_install(kernel_db, acme)
                if kind == "install"
                else await requests.submit(kernel_db, acme, kind, "tickets")
            )
            outcome = await requests.wait(kernel_db, acme.organization_id, request_id, 30, sealer=SEALER)
            assert outcome.status == "done", outcome


async def test_waiting_ends_with_the_state_of_then(owner_db: Database, kernel_db: Database) -> None:
    acme = principal(await make_organization(owner_db))
    request_id = await requests.submit(kernel_db, acme, "enable", "tickets")
    outcome = await requests.wait(kernel_db, acme.organization_id, request_id, 0.05)
    assert (outcome.status, outcome.finished) == ("pending", False)


async def test_old_requests_and_secrets_that_nobody_fetched_are_forgotten(
    owner_db: Database, kernel_db: Database
) -> None:
    acme = principal(await make_organization(owner_db))
    await ask_install(kernel_db, acme)
    await worker(owner_db).run_pending()
    old = await requests.submit(kernel_db, acme, "enable", "tickets")
    await worker(owner_db).run_pending()
    await owner_db.postgres.execute(
        "UPDATE metacore_requests SET finished_at = now() - CASE kind WHEN 'install' THEN interval '2 hours'"
        " ELSE interval '30 days' END"
    )
    await worker(owner_db).tidy()
    with pytest.raises(NotFound):
        await ended(kernel_db, acme, old)
    assert await owner_db.postgres.fetchval("SELECT sealed_result FROM metacore_requests") == ""


async def test_requests_work_on_sqlite_too(sqlite_db: Database) -> None:
    acme = principal(await make_organization(sqlite_db))
    request_id = await ask_install(sqlite_db, acme)
    made = RequestWorker(sqlite_db, Installer(sqlite_db, sealer=SEALER), lambda: TRUSTED, SEALER)
    assert await made.run_pending() == 1
    outcome = await ended(sqlite_db, acme, request_id)
    assert outcome.status == "done", outcome
    assert len(outcome.result["install_secret"]) == 64


async def test_what_an_addon_resource_declares_is_not_replaced_or_taken_away_through_the_api(
    owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = principal(await make_organization(owner_db)), principal(await make_organization(owner_db, "Globex"))
    content, signature = signed(make_bundle(tickets_manifest()))
    installer = Installer(owner_db, sealer=SEALER)
    await installer.install(
        content, signature, trusted=TRUSTED, organizations=[acme.organization_id], owner_uid="uid of an Addon"
    )

    async def run(caller: Principal, kind: str, **arguments: Any) -> requests.RequestOutcome:
        request_id = await requests.submit(kernel_db, caller, kind, "tickets", arguments=arguments)
        await worker(owner_db).run_pending()
        return await ended(kernel_db, caller, request_id)

    removed = await run(acme, "uninstall", drop=True)
    for caller in (acme, globex):
        request_id = await ask_install(kernel_db, caller, version="2.0.0")
        await worker(owner_db).run_pending()
        installed = await ended(kernel_db, caller, request_id)
        assert isinstance(installed.error, KeyOwned), installed
    assert isinstance(removed.error, KeyOwned)
    rows = await owner_db.postgres.fetch("SELECT organization_id, version FROM metacore_installations")
    assert [tuple(row) for row in rows] == [(acme.organization_id, "1.0.0")]
    for kind in ("disable", "enable", "rotate_secret"):
        assert (await run(acme, kind)).status == "done", kind
