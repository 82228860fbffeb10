"""Killing an installation between or inside any two steps, and starting again, loses nothing and converges."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import uuid
from typing import Any

import asyncpg
import pytest
from tests import killed_install
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, read, signed, tickets_manifest

from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.installer.names import role_name

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.killed_install"])

MODEL: dict[str, Any] = {
    "key": "Ticket",
    "table": "tickets",
    "columns": [{"name": "title", "type": "string", "not_null": True}, {"name": "kind_id", "type": "uuid"}],
}
OLD = tickets_manifest(models=[MODEL])
NEW = tickets_manifest(
    version="2.0.0",
    models=[
        {
            **MODEL,
            "columns": [
                {**MODEL["columns"][0], "index": True},
                MODEL["columns"][1],
                {"name": "rank", "type": "int", "not_null": True, "default": 5},
                {"name": "code", "type": "string", "unique": True},
            ],
            "relations": [{"name": "kind", "kind": "belongs_to", "through": "Kind", "foreign_key": "kind_id"}],
        },
        {
            "key": "Kind",
            "table": "kinds",
            "columns": [{"name": "name", "type": "string", "unique": True}],
            "seed": {"key": "name", "rows": [{"name": "bug"}, {"name": "wish"}]},
        },
    ],
)
SQL = {
    "0001_log.sql": "CREATE TABLE log (n int, organization_id uuid); INSERT INTO log (n) VALUES (1);",
    "0002_more.sql": "INSERT INTO log (n) VALUES (2); UPDATE tickets SET title = title || '!';",
}
MORE = "INSERT INTO log (n) VALUES (2);"
ROWS = 30

SHAPE = """
WITH ours AS (
  SELECT *, oid::regclass::text AS name FROM pg_class
  WHERE relnamespace = 'addon_tickets'::regnamespace AND relkind = 'r'
)
SELECT 'column ' || c.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || a.attnotnull
    || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN ours c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) || indisvalid
  FROM pg_index i JOIN ours c ON c.oid = i.indrelid
UNION ALL SELECT 'table ' || c.name || c.relrowsecurity || c.relforcerowsecurity || pg_get_userbyid(c.relowner)
    || c.relacl::text FROM ours c
UNION ALL SELECT 'policy ' || c.name || polname || pg_get_expr(polqual, polrelid) || ARRAY(
    SELECT rolname FROM pg_roles WHERE oid = ANY (polroles) ORDER BY 1)::text
  FROM pg_policy p JOIN ours c ON c.oid = p.polrelid
UNION ALL SELECT 'constraint ' || conname || pg_get_constraintdef(o.oid) FROM pg_constraint o
  WHERE o.connamespace = 'addon_tickets'::regnamespace
UNION ALL SELECT 'migration ' || version || checksum FROM metacore_addon_migrations
UNION ALL SELECT 'model ' || model_key || table_name FROM metacore_addon_models
UNION ALL SELECT 'schema ' || name FROM metacore_schemas
UNION ALL SELECT 'addon ' || key || version || digest FROM metacore_addons
UNION ALL SELECT 'installation ' || organization_id || version || status || length(secret_hash)
  FROM metacore_installations
UNION ALL SELECT 'log ' || n FROM addon_tickets.log
UNION ALL SELECT 'kind ' || organization_id || name FROM addon_tickets.kinds
UNION ALL SELECT 'ticket ' || organization_id || title || rank FROM addon_tickets.tickets
ORDER BY 1
"""


async def shape(db: Database) -> list[str]:
    """All that an installation leaves, without what differs by chance (ids, secrets, times)."""
    return [row[0] for row in await db.postgres.fetch(SHAPE)]


async def old_version(owner_db: Database, organization: uuid.UUID) -> None:
    """Version 1 with rows, and nothing left of another one."""
    installer = Installer(owner_db)
    await installer.remove("tickets", drop=True)
    content, signature = signed(make_bundle(OLD))
    await installer.install(content, signature, trusted=TRUSTED, organizations=[organization])
    await owner_db.postgres.execute(
        "INSERT INTO addon_tickets.tickets (organization_id, title)"
        " SELECT $1, 'ticket ' || g FROM generate_series(1, $2::int) g",
        organization,
        ROWS,
    )


async def killed_at(urls: DatabaseUrls, bundle: tuple[bytes, Any], organizations: list[uuid.UUID], place: int) -> bool:
    """Whether the process was killed there; false when it had no such point and ended by itself."""
    process = forks.Process(
        target=killed_install.install_until, args=(urls.owner, *bundle, organizations, place), daemon=True
    )
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode in (-signal.SIGKILL, 0), process.exitcode
    return process.exitcode != 0


async def points(owner_db: Database, bundle: tuple[bytes, Any], organizations: list[uuid.UUID]) -> list[str]:
    """The points that an undisturbed installation passes."""
    passed: list[str] = []
    content, signature = bundle
    await Installer(owner_db, point=passed.append).install(
        content, signature, trusted=TRUSTED, organizations=organizations
    )
    return passed


async def left_open(owner_db: Database, urls: DatabaseUrls) -> list[Any]:
    """Logins and sessions of the addon's role, which must be gone after every installation that came to its end."""
    role = role_name(urls.name, "tickets")
    logins = await owner_db.postgres.fetch("SELECT rolname FROM pg_roles WHERE rolname = $1 AND rolcanlogin", role)
    return [*logins, *await owner_db.postgres.fetch("SELECT pid FROM pg_stat_activity WHERE usename = $1", role)]


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_an_upgrade_killed_anywhere_converges_to_what_an_undisturbed_one_makes(
    part: int, owner_db: Database, database_urls: DatabaseUrls
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    bundle = signed(make_bundle(NEW, SQL))
    await old_version(owner_db, acme)
    passed = await points(owner_db, bundle, [acme, globex])
    kinds = {word.split(" ")[1] for word in passed}
    assert {"claim", "role", "migration", "table", "protect", "index", "foreign", "seed", "install"} <= kinds
    expected = await shape(owner_db)
    assert sum(line.startswith("ticket ") and line.endswith("!5") for line in expected) == ROWS
    content, signature = bundle
    for place in range(1 + part, len(passed) + 1, 3):
        await old_version(owner_db, acme)
        word = passed[place - 1]
        assert await killed_at(database_urls, bundle, [acme, globex], place), word
        # The old rows are there, whatever was under way.
        assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.tickets") == ROWS, word
        installer = Installer(owner_db)
        report = await installer.install(content, signature, trusted=TRUSTED, organizations=[acme, globex])
        assert report.changed is (word != "after install"), word
        assert await shape(owner_db) == expected, word
        assert (await installer.plan(read(NEW, SQL), [acme, globex])).steps == (), word
        assert await left_open(owner_db, database_urls) == [], word


async def test_a_first_installation_killed_again_and_again_gets_there(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    """Each run dies a little later than the one before; none starts from scratch."""
    acme = await make_organization(owner_db)
    bundle = signed(make_bundle(NEW, {"0001_log.sql": SQL["0001_log.sql"], "0002_more.sql": MORE}))
    deaths = 0
    for place in range(2, 200, 2):
        if not await killed_at(database_urls, bundle, [acme], place):
            break
        deaths += 1
    assert deaths > 5
    content, signature = bundle
    report = await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[acme])
    assert report.changed is False
    assert await owner_db.postgres.fetchval("SELECT array_agg(n ORDER BY n) FROM addon_tickets.log") == [1, 2]
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.kinds") == 2
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 1


async def test_an_index_whose_builder_was_killed_half_way_is_built_again(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    acme = await make_organization(owner_db)
    await old_version(owner_db, acme)
    indexed = {**MODEL, "columns": [{**MODEL["columns"][0], "index": True}, MODEL["columns"][1]]}
    manifest = tickets_manifest(version="1.1.0", models=[indexed])
    bundle = signed(make_bundle(manifest))
    holder = await asyncpg.connect(database_urls.owner)
    process = forks.Process(
        target=killed_install.install_until, args=(database_urls.owner, *bundle, [acme], 0), daemon=True
    )
    try:
        async with holder.transaction():
            # A writer that does not end: the concurrent build waits for it, with its index half made.
            await holder.execute("UPDATE addon_tickets.tickets SET title = title")
            process.start()
            waiting = (
                "SELECT count(*) FROM pg_index i JOIN pg_stat_activity s ON s.wait_event_type = 'Lock'"
                " AND s.query LIKE 'CREATE INDEX CONCURRENTLY%' WHERE NOT i.indisvalid"
            )
            async with asyncio.timeout(30):
                while not await owner_db.postgres.fetchval(waiting):
                    assert process.is_alive()
                    await asyncio.sleep(0.01)
            process.kill()
            await asyncio.to_thread(process.join)
            assert await owner_db.postgres.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1
    finally:
        await holder.close()
    content, signature = bundle
    await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[acme])
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    definitions = await owner_db.postgres.fetch("SELECT indexdef FROM pg_indexes WHERE schemaname = 'addon_tickets'")
    assert any("(organization_id, title, id)" in row["indexdef"] for row in definitions)


async def test_a_migration_that_runs_on_after_its_process_died_is_ended(
    owner_db: Database, database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the addon's lock, so the next attempt could not begin before it ends by itself."""
    monkeypatch.setattr("metacore.installer.runner.ADVISORY_TIMEOUT", "200ms")
    acme = await make_organization(owner_db)
    await old_version(owner_db, acme)
    # About as slow as it gets without sleeping: the process dies while PostgreSQL counts.
    slow = {
        "0001_slow.sql": "CREATE TABLE slow AS SELECT count(*) AS n, NULL::uuid AS organization_id FROM"
        " generate_series(1, 100000) a, generate_series(1, 100000) b;"
    }
    bundle = signed(make_bundle(tickets_manifest(version="1.1.0", models=[MODEL]), slow))
    process = forks.Process(
        target=killed_install.install_until, args=(database_urls.owner, *bundle, [acme], 0), daemon=True
    )
    process.start()
    role = role_name(database_urls.name, "tickets")
    running = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = $1 AND query LIKE 'CREATE TABLE slow%' AND state = 'active'"
    )
    async with asyncio.timeout(30):
        while not await owner_db.postgres.fetchval(running, role):
            assert process.is_alive()
            await asyncio.sleep(0.01)
    process.kill()
    await asyncio.to_thread(process.join)
    quick = {"0001_slow.sql": "CREATE TABLE slow (n int, organization_id uuid);"}
    content, signature = signed(make_bundle(tickets_manifest(version="1.1.0", models=[MODEL]), quick))
    await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[acme])
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.slow") == 0
    assert await left_open(owner_db, database_urls) == []
