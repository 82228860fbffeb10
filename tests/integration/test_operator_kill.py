"""Killing the operator at any point of a reconcile, and starting it again, ends where an undisturbed one does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import signal
from pathlib import Path

from tests import killed_operator
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.folder_world import FolderWorld
from tests.tickets import TICKETS, read, tickets_manifest

from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.installer.names import role_name, scratch_role

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.killed_operator"])

STEP = 4
"""Every so many points one is tried; each try meets another part of the way."""


def models(number: int) -> list[dict[str, object]]:
    """The tickets' models with as many more columns."""
    columns = [{"name": f"more_{index}", "type": "string", "index": True} for index in range(number)]
    first, *rest = TICKETS["models"]
    return [{**first, "columns": [*first["columns"], *columns]}, *rest]


def migrations(number: int) -> dict[str, str]:
    made = {"0000_log.sql": "CREATE TABLE log (n int, organization_id uuid);"}
    return made | {f"{index:04}_log.sql": f"INSERT INTO log (n) VALUES ({index});" for index in range(1, number + 1)}


async def run(world: FolderWorld, urls: DatabaseUrls, version: str, place: int) -> bool:
    """Whether the operator was killed at that point; false when it came to its end."""
    data = world.data / "addons"
    process = forks.Process(
        target=killed_operator.reconcile_until,
        args=(urls.owner, world.root, data, world.keys, version, place),
        daemon=True,
    )
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode in (-signal.SIGKILL, 0), process.exitcode
    return process.exitcode != 0


async def test_an_operator_killed_anywhere_converges(
    tmp_path: Path, owner_db: Database, kernel_db: Database, database_urls: DatabaseUrls
) -> None:
    world = FolderWorld(tmp_path, owner_db, kernel_db)
    acme = await make_organization(owner_db, "Acme")
    world.bundle("tickets.tar.gz", migrations=migrations(0))
    world.declare()
    async with world.kernel():
        assert not await run(world, database_urls, "1.0.0", 0)
        total = len((world.data / "addons" / "points").read_text().splitlines())
        deaths = 0
        for number, place in enumerate(range(1, total + 1, STEP), start=1):
            version = f"1.0.{number}"
            world.bundle("tickets.tar.gz", version=version, models=models(number), migrations=migrations(number))
            world.declare(annotations={"metacore.dev/rotate-secrets": str(number)})

            deaths += await run(world, database_urls, version, place)
            assert not await run(world, database_urls, version, 0), place

            status = json.loads((world.data / "addons" / "tickets.status.json").read_text())["status"]
            assert (status["phase"], status["version"]) == ("Ready", version), place
            assert status["lastHandledRotateSecrets"] == str(number), place
            kept = json.loads((world.data / "addons" / "tickets.secrets.json").read_text())["secrets"]
            stored = await owner_db.postgres.fetchval("SELECT secret_hash FROM metacore_installations")
            assert stored == f"sha256:{hashlib.sha256(bytes.fromhex(kept[str(acme)])).hexdigest()}", place
            ran = await owner_db.postgres.fetchval("SELECT array_agg(n ORDER BY n) FROM addon_tickets.log")
            assert ran == list(range(1, number + 1)), place
            bundle = read(tickets_manifest(version=version, models=models(number)), migrations(number))
            assert (await Installer(owner_db).plan(bundle, [acme])).steps == (), place
            assert await left_behind(owner_db, database_urls) == [], place
        assert deaths > 6


async def left_behind(owner: Database, urls: DatabaseUrls) -> list[str]:
    """Copies of rehearsals, logins of the addon's role, half built indexes."""
    rows = await owner.postgres.fetch(
        "SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'scratch%'"
        " UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)"
        " UNION ALL SELECT rolname FROM pg_roles WHERE rolname = $2 AND rolcanlogin"
        " UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid",
        scratch_role(urls.name, ""),
        role_name(urls.name, "tickets"),
    )
    return [row["name"] for row in rows]
