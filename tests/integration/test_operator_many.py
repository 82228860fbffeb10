"""Many Addons at once: few looks at each, few connections, whatever their number."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.factories import make_organization
from tests.folder_world import FolderWorld
from tests.tickets import SIGNING_KEY, make_bundle

from metacore.bundle.signature import sign
from metacore.db.database import Database
from metacore_operator.conditions import Summary
from metacore_operator.folder import runner
from metacore_operator.outcomes import Reason
from metacore_operator.settings import ReconcileSettings
from metacore_operator.steps import reconcile

MANY = 30
WORKERS = 4


async def test_each_of_many_addons_is_looked_at_a_few_times_over_few_connections(
    tmp_path: Path, owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FolderWorld(tmp_path, owner_db, kernel_db)
    await make_organization(owner_db, "Acme")
    keys = [f"addon{number:03}" for number in range(MANY)]
    for key in keys:
        model = {"key": key.title(), "table": f"{key}_items", "columns": [{"name": "title", "type": "string"}]}
        manifest = {
            "apiVersion": "asteby.com/v3",
            "kind": "Addon",
            "metadata": {"key": key, "name": key, "version": "1.0.0"},
            "models": [model],
        }
        content = make_bundle(manifest)
        (world.root / f"{key}.tar.gz").write_bytes(content)
        (world.root / f"{key}.tar.gz.sig.json").write_text(json.dumps(sign(content, SIGNING_KEY).as_json()))
        world.declare(key)
    looks, at_once, most = 0, 0, 0

    async def counted(*arguments: Any, **named: Any) -> Summary:
        nonlocal looks, at_once, most
        looks, at_once = looks + 1, at_once + 1
        most = max(most, at_once)
        try:
            return await reconcile.reconcile(*arguments, **named)
        finally:
            at_once -= 1

    monkeypatch.setattr(runner, "reconcile", counted)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    settings = ReconcileSettings(resync=600, pulse=0.5, settle=0.05, workers=WORKERS)
    async with world.kernel():
        before = await owner_db.postgres.fetchval(sessions)
        async with world.reconciling(settings=settings):
            await asyncio.gather(*(world.until(Reason.SUCCEEDED, key, seconds=300) for key in keys))
            during = await owner_db.postgres.fetchval(sessions)

    assert most == WORKERS
    # Once to install and once when the kernel has it; what a pulse saw half way costs one more.
    assert looks <= 4 * MANY
    assert during - before <= 2 * WORKERS + 4
