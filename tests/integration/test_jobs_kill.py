"""A kernel that is killed in the middle of a job: another one runs it, under the same invocation id."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests import killed_job
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.job_world import busy_manifest, compiled, job_world

from metacore.db.database import Database
from metacore.installer import job_rows
from metacore.installer.job_rows import WEBHOOK, Work

spawns = multiprocessing.get_context("spawn")
LEASE = 2.0


@pytest.mark.parametrize("kind", ["webhook", "lifecycle", "schedule", "subscription"])
async def test_another_kernel_takes_over_with_the_same_id(
    owner_db: Database, database_urls: DatabaseUrls, tmp_path: Path, kind: str
) -> None:
    note = tmp_path / "invocation"
    acme = await make_organization(owner_db)
    parts: dict[str, dict[str, Any]] = {
        "webhook": {},
        "lifecycle": {"lifecycle": {"install": compiled("work")}},
        "schedule": {"schedules": [{"key": "tick", "every": "30d", "do": compiled("work")}]},
        "subscription": {"contributions": {"subscriptions": [{"event": "*", "handler": compiled("work")}]}},
    }
    async with job_world(owner_db, database_urls.kernel) as world:
        await world.install(busy_manifest(**parts[kind]), acme)
        if kind == "webhook":
            handler = {"kind": "compiled", "function": "work", "url": ""}
            job = Work(organization_id=acme, addon_key="tickets", kind=WEBHOOK, name="order", handler=handler)
            async with owner_db.transaction(acme) as connection:
                await job_rows.enqueue(connection, [job])
        elif kind == "schedule":
            await world.execute("UPDATE metacore_jobs SET run_at = now()")
        elif kind == "subscription":
            await world.emit(acme, "shop.order.created")
        victim = spawns.Process(
            target=killed_job.run_until_killed, args=(database_urls.owner, database_urls.kernel, str(note), LEASE)
        )
        victim.start()
        await asyncio.to_thread(victim.join, 60)
        assert victim.exitcode == -signal.SIGKILL
        (left,) = await world.jobs("status = 'running'")
        assert left.attempts == 1

        kernel = await world.start(lease=LEASE)
        (again,) = await kernel.handlers.seen.reach(1)
        assert again.id == uuid.UUID(note.read_text())
        assert again.handler.function == "work"
        ended = {"schedule": "waiting", "subscription": "idle"}.get(kind, "done")
        (row,) = await world.until(1, f"status = '{ended}'", "leased_by = ''")
        assert len(kernel.handlers.seen.items) == 1
        assert row.attempts == (2 if ended == "done" else 0)
