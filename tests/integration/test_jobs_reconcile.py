"""An Addon is Ready once its own handlers came through; what fails is told by name, and mended by the next version."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.folder_world import FolderWorld
from tests.job_world import Handlers, compiled, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs import retry
from metacore.db.database import Database
from metacore_operator.housekeeping import Housekeeping
from metacore_operator.outcomes import Reason


async def test_a_failing_handler_shows_in_the_status_until_a_version_mends_it(
    tmp_path: Path,
    owner_db: Database,
    kernel_db: Database,
    database_urls: DatabaseUrls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)
    acme = await make_organization(owner_db)
    folder = FolderWorld(tmp_path, owner_db, kernel_db)
    handlers = Handlers()
    gate = asyncio.Event()

    async def broken(_invocation: Invocation) -> Result:
        await gate.wait()
        return Result(False, code="broken", message="division by zero")

    handlers.on("on_install", broken)
    lifecycle: dict[str, Any] = {"install": compiled("on_install"), "uninstall": compiled("on_uninstall")}
    async with job_world(owner_db, database_urls.kernel) as world, folder.kernel(), folder.reconciling():
        await world.start(handlers)
        folder.bundle("tickets.tar.gz", lifecycle=lifecycle)
        folder.declare()
        await folder.until(Reason.HANDLERS_PENDING, words=f"the install handler has not run yet in organization {acme}")
        gate.set()
        await folder.until(Reason.HANDLER_FAILED, words="division by zero")
        assert folder.condition("Served") == ("False", "HandlerFailed")
        assert folder.condition("Ready") == ("False", "HandlerFailed")
        lifecycle["install"] = compiled("on_install_mended")
        folder.bundle("tickets.tar.gz", version="1.0.1", lifecycle=lifecycle)
        await folder.until(Reason.SUCCEEDED)
        assert folder.condition("Served") == ("True", "Acknowledged")
        assert handlers.names()[-1] == "on_install_mended"
        (folder.root / "tickets.yaml").unlink()
        await folder.until(Reason.REMOVED)
        assert handlers.names()[-1] == "on_uninstall"


async def test_old_jobs_are_thrown_away(owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    ages = {"done": (6, 8), "failed": (29, 31)}
    async with owner_db.transaction(None) as connection:
        for status, days in ages.items():
            for age in days:
                await connection.exec_driver_sql(
                    "INSERT INTO metacore_jobs (id, organization_id, addon_key, kind, name, status, finished_at)"
                    f" VALUES (gen_random_uuid(), '{acme}', 'shop', 'webhook', '{age}', '{status}',"
                    f" now() - interval '{age} days')"
                )
    stop = asyncio.Event()

    def now() -> datetime.datetime:
        stop.set()
        return datetime.datetime.now(datetime.UTC)

    await Housekeeping(owner_db, now=now).run(stop)
    async with owner_db.transaction(None) as connection:
        left = await connection.exec_driver_sql("SELECT name FROM metacore_jobs ORDER BY name")
        assert [row.name for row in left] == ["29", "6"]
