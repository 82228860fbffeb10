"""SQL that an addon brings: run once per schema, as the addon's own role, recorded with its checksum."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.hostile_sql import HARMLESS
from tests.tickets import TRUSTED, make_bundle, read, signed, tickets_manifest

from metacore.db.database import Database
from metacore.errors import Conflict, InstallFailed, MigrationRefused, Refused
from metacore.installer import migration_role
from metacore.installer.execute import Installer, InstallReport
from metacore.installer.names import role_name
from metacore.installer.sql_migrations import judge
from metacore.installer.sql_names import Names

REAL = """
CREATE TYPE ticket_status AS ENUM ('open', 'done');
CREATE TABLE IF NOT EXISTS tickets (
  id BIGSERIAL PRIMARY KEY,
  organization_id UUID NOT NULL,
  title TEXT NOT NULL,
  status ticket_status NOT NULL DEFAULT 'open',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS watchers (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  organization_id UUID NOT NULL,
  ticket BIGINT NOT NULL REFERENCES tickets (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS watchers_ticket ON watchers (ticket);
"""
LISTED = {
    "key": "tickets",
    "name": "Tickets",
    "version": "1.0.0",
    "kernel": ">=2.0.0",
    "models": ["watchers"],
    "model_definitions": [
        {
            "table_name": "tickets",
            "model_key": "tickets",
            "soft_delete": True,
            "columns": [
                {"name": "title", "type": "string", "required": True},
                {"name": "status", "type": "string"},
                {"name": "rank", "type": "int", "default": 1},
            ],
        }
    ],
}


async def install(
    installer: Installer,
    *organizations: uuid.UUID,
    manifest: Mapping[str, Any] | None = None,
    migrations: Mapping[str, str],
    **options: Any,
) -> InstallReport:
    content, signature = signed(make_bundle(manifest or tickets_manifest(), migrations))
    return await installer.install(content, signature, trusted=TRUSTED, organizations=organizations, **options)


async def applied(db: Database) -> list[tuple[str, str]]:
    rows = await db.postgres.fetch("SELECT schema, version FROM metacore_addon_migrations ORDER BY schema, version")
    return [(row["schema"], row["version"]) for row in rows]


async def can_log_in(db: Database, urls: DatabaseUrls) -> bool:
    role = role_name(urls.name, "tickets")
    return bool(await db.postgres.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", role))


async def test_tables_of_migrations_are_kept_completed_and_protected(owner_db: Database, kernel_db: Database) -> None:
    installer = Installer(owner_db)
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex, manifest=LISTED, migrations={"0001_init.sql": REAL})
    columns = {
        row["column_name"]: row["data_type"]
        for row in await owner_db.postgres.fetch(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'addon_tickets' AND table_name = 'tickets'"
        )
    }
    assert columns == {
        "id": "bigint",
        "organization_id": "uuid",
        "title": "text",
        "status": "USER-DEFINED",
        "created_at": "timestamp without time zone",
        "created_by_id": "uuid",
        "rank": "integer",
        "updated_at": "timestamp with time zone",
        "deleted_at": "timestamp with time zone",
    }
    # The kernel numbers rows by the table's own sequence, and sees one tenant's rows in every table of the schema.
    async with kernel_db.postgres.acquire() as connection:
        for organization in (acme, globex):
            async with connection.transaction():
                await connection.execute("SELECT set_config('app.current_org', $1, true)", str(organization))
                ticket = await connection.fetchval(
                    "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, 'a') RETURNING id",
                    organization,
                )
                await connection.execute(
                    "INSERT INTO addon_tickets.watchers (organization_id, ticket) VALUES ($1, $2)", organization, ticket
                )
                assert await connection.fetchval("SELECT count(*) FROM addon_tickets.tickets") == 1
                assert await connection.fetchval("SELECT count(*) FROM addon_tickets.watchers") == 1
    again = await install(installer, acme, globex, manifest=LISTED, migrations={"0001_init.sql": REAL})
    assert again.changed is False
    plan = await installer.plan(read(LISTED, {"0001_init.sql": REAL}), [acme])
    assert plan.steps == ()


@pytest.mark.parametrize("what", [what for what in HARMLESS if HARMLESS[what].strip()])
async def test_sql_of_real_addons_runs(what: str, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(
        Installer(owner_db), acme, manifest=tickets_manifest(models=[]), migrations={"0001_x.sql": HARMLESS[what]}
    )
    assert await applied(owner_db) == [("addon_tickets", "0001")]


async def test_each_migration_runs_once_and_is_recorded_with_its_checksum(owner_db: Database) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    files = {"0001_a.sql": "CREATE TABLE runs (n int, organization_id uuid); INSERT INTO runs VALUES (1);"}
    await install(installer, acme, migrations=files)
    files["0002_b.sql"] = "INSERT INTO runs VALUES (2);"
    await install(installer, acme, manifest=tickets_manifest(version="1.1.0"), migrations=files)
    await install(installer, acme, manifest=tickets_manifest(version="1.2.0"), migrations=files)
    assert await owner_db.postgres.fetchval("SELECT array_agg(n ORDER BY n) FROM addon_tickets.runs") == [1, 2]
    bundle = read(tickets_manifest(), files)
    rows = await owner_db.postgres.fetch("SELECT checksum FROM metacore_addon_migrations ORDER BY version")
    assert [row["checksum"] for row in rows] == [file.checksum for file in bundle.migrations]
    changed = {**files, "0001_a.sql": files["0001_a.sql"] + " -- changed"}
    with pytest.raises(MigrationRefused, match=r"0001_a\.sql changed after it ran"):
        await install(installer, acme, manifest=tickets_manifest(version="1.3.0"), migrations=changed)


async def test_a_migration_that_fails_leaves_nothing_and_names_its_place(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    files = {
        "0001_a.sql": "CREATE TABLE a (n int NOT NULL, organization_id uuid);",
        "0002_b.sql": "CREATE TABLE b (n int, organization_id uuid);\n\nINSERT INTO a (n) VALUES (NULL);",
    }
    with pytest.raises(InstallFailed) as failure:
        await install(installer, acme, migrations=files)
    assert failure.value.step == "migration addon_tickets 0002"
    assert failure.value.message.startswith("migrations/0002_b.sql:3: INSERT: null value in column")
    assert await applied(owner_db) == [("addon_tickets", "0001")]
    tables = await owner_db.postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'addon_tickets'")
    assert [row["tablename"] for row in tables] == ["a"]
    assert not await can_log_in(owner_db, database_urls)
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 0
    # A file that never ran may be mended.
    files["0002_b.sql"] = "INSERT INTO a (n) VALUES (1);"
    await install(installer, acme, migrations=files)
    assert await applied(owner_db) == [("addon_tickets", "0001"), ("addon_tickets", "0002")]


async def test_a_backfill_reaches_the_rows_of_every_organization(owner_db: Database) -> None:
    installer = Installer(owner_db)
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex, migrations={})
    for organization in (acme, globex):
        await owner_db.postgres.execute(
            "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, 'old')", organization
        )
    files = {"0001_a.sql": "UPDATE tickets SET title = upper(title);"}
    await install(installer, acme, manifest=tickets_manifest(version="1.1.0"), migrations=files)
    assert await owner_db.postgres.fetchval("SELECT array_agg(title) FROM addon_tickets.tickets") == ["OLD", "OLD"]


async def test_an_addon_that_begins_to_bring_sql_may_change_the_tables_it_declared(
    owner_db: Database, kernel_db: Database
) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await install(installer, acme, migrations={})
    files = {
        "0001_a.sql": "ALTER TABLE tickets ADD COLUMN extra int; CREATE TABLE more (id uuid, organization_id uuid);"
    }
    newer = tickets_manifest(version="1.1.0")
    await install(installer, acme, manifest=newer, migrations=files)
    owners = await owner_db.postgres.fetch(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'addon_tickets'"
    )
    role = role_name(await owner_db.postgres.fetchval("SELECT current_database()"), "tickets")
    assert [row["tableowner"] for row in owners] == [role]
    async with kernel_db.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_org', $1, true)", str(acme))
        await connection.execute("INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, 'x')", acme)
    await install(installer, acme, manifest=tickets_manifest(version="1.2.0"), migrations=files)


async def test_a_sequence_that_a_later_migration_adds_may_be_used_by_the_kernel(
    owner_db: Database, kernel_db: Database
) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await install(installer, acme, migrations={})
    files = {"0001_a.sql": "ALTER TABLE tickets ADD COLUMN number serial;"}
    newer = tickets_manifest(version="1.1.0")
    await install(installer, acme, manifest=newer, migrations=files)
    async with kernel_db.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_org', $1, true)", str(acme))
        number = await connection.fetchval(
            "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, 'x') RETURNING number", acme
        )
    assert number == 1
    assert (await installer.plan(read(newer, files), [acme])).steps == ()


async def test_every_tenants_schema_gets_every_migration(owner_db: Database) -> None:
    installer = Installer(owner_db)
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    manifest = tickets_manifest(tenancy={"isolation": "schema"}, models=[])
    files = {"0001_a.sql": "CREATE TABLE kinds (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);"}
    await install(installer, acme, manifest=manifest, migrations=files)
    files["0002_b.sql"] = "INSERT INTO kinds (name) VALUES ('bug');"
    manifest["metadata"]["version"] = "1.1.0"
    await install(installer, globex, manifest=manifest, migrations=files)
    names = sorted(f"addon_tickets_{organization.hex[:8]}" for organization in (acme, globex))
    assert await applied(owner_db) == [(name, version) for name in names for version in ("0001", "0002")]
    for name in names:
        assert await owner_db.postgres.fetchval(f"SELECT array_agg(name) FROM {name}.kinds") == ["bug"]


async def test_a_table_without_organization_is_refused_before_anything_runs(owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    with pytest.raises(Refused, match="has no organization_id"):
        await install(Installer(owner_db), acme, migrations={"0001_a.sql": "CREATE TABLE kinds (id uuid PRIMARY KEY);"})
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_schemas") == 0


async def test_what_an_addon_dropped_cannot_stand_for_a_table_of_the_host(owner_db: Database) -> None:
    """A bundle that leaves out the migration which dropped a table must not make the name look like its own."""
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    files = {
        "0001_a.sql": "CREATE TABLE products (id uuid, organization_id uuid);",
        "0002_b.sql": "DROP TABLE products;",
    }
    await install(installer, acme, migrations=files)
    await owner_db.postgres.execute("CREATE TABLE public.products (id uuid, price int)")
    del files["0002_b.sql"]
    files["0003_c.sql"] = "CREATE VIEW spy WITH (security_invoker) AS SELECT * FROM products;"
    with pytest.raises(MigrationRefused, match="'products' is not a table"):
        await install(installer, acme, manifest=tickets_manifest(version="1.1.0"), migrations=files)


class Killed(BaseException):
    """Stands for a process that ends here."""


async def test_a_migration_whose_commit_nobody_recorded_does_not_run_twice(owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    files = {"0001_a.sql": "CREATE TABLE runs (n int, organization_id uuid); INSERT INTO runs VALUES (1);"}

    def die(word: str) -> None:
        if word == "committed migration addon_tickets 0001":
            raise Killed

    with pytest.raises(Killed):
        await install(Installer(owner_db, point=die), acme, migrations=files)
    assert await applied(owner_db) == []
    await install(Installer(owner_db), acme, migrations=files)
    assert await applied(owner_db) == [("addon_tickets", "0001")]
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.runs") == 1


def in_another_thread(statement: str, url: str) -> None:
    """Run a statement while this thread's event loop stands still."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "word", ["before migration addon_tickets 0001", "before table addon_tickets.tickets", "before install"]
)
async def test_a_superseded_attempt_changes_nothing_more(
    word: str, owner_db: Database, database_urls: DatabaseUrls
) -> None:
    """An attempt whose process slept while another one began must not go on."""
    acme = await make_organization(owner_db)
    files = {"0001_a.sql": "CREATE TABLE runs (n int, organization_id uuid);"}

    def overtake(reached: str) -> None:
        if reached == word:
            in_another_thread("UPDATE metacore_addons SET attempt = attempt + 1", database_urls.owner)

    with pytest.raises(Conflict) as refusal:
        await install(Installer(owner_db, point=overtake), acme, migrations=files)
    assert refusal.value.code == "superseded"
    steps = await owner_db.postgres.fetch("SELECT step FROM metacore_journal WHERE status <> 'done'")
    assert [row["step"] for row in steps] == []
    assert word.removeprefix("before ") not in [
        row["step"] for row in await owner_db.postgres.fetch("SELECT step FROM metacore_journal")
    ]
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 0


async def test_a_migration_of_an_older_attempt_cannot_commit(owner_db: Database, database_urls: DatabaseUrls) -> None:
    """Even when the owner's connection is gone and nobody else is left to check."""
    acme = await make_organization(owner_db)
    await install(
        Installer(owner_db), acme, migrations={"0001_a.sql": "CREATE TABLE runs (n int, organization_id uuid);"}
    )
    role = role_name(database_urls.name, "tickets")
    async with owner_db.transaction(None) as connection:
        password = await migration_role.open_login(connection, role, "tickets", 7)
    late = judge(
        read(tickets_manifest(), {"0002_b.sql": "INSERT INTO runs VALUES (1);"}).migrations, Names(tables={"runs"})
    )
    run: dict[str, Any] = {
        "role": role,
        "password": password,
        "schema": "addon_tickets",
        "migration": late[0],
        "key": "tickets",
        "step": "late",
        "inside": lambda: None,
    }
    with pytest.raises(Conflict) as refusal:
        await migration_role.run_migration(owner_db.direct_url, attempt=6, **run)
    assert refusal.value.code == "superseded"
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.runs") == 0
    await migration_role.run_migration(owner_db.direct_url, attempt=7, **run)
    await migration_role.run_migration(owner_db.direct_url, attempt=7, **run)
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.runs") == 1
    async with owner_db.transaction(None) as connection:
        await migration_role.close_login(connection, role)
    with pytest.raises(Conflict):
        await migration_role.run_migration(owner_db.direct_url, attempt=7, **run)
