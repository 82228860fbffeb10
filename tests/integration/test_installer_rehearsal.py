"""Migrations tried on a copy of the addon's schema: what they would do is seen, and nothing of the copy stays."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

import asyncpg
import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, read, signed, tickets_manifest

from metacore.db.database import Database
from metacore.errors import Unavailable
from metacore.installer import names, scratch
from metacore.installer.blueprint import draw
from metacore.installer.execute import Installer
from metacore.installer.steps import Impact, Rehearsal, RiskKind

FIRST = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int DEFAULT 1 NOT NULL CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b mood);
CREATE SEQUENCE numbers START 100 INCREMENT 5;
CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x * 2';
CREATE TABLE parents (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  organization_id uuid NOT NULL,
  "odd Name" text COLLATE "C" DEFAULT 'a',
  mood mood NOT NULL DEFAULT 'good',
  size positive,
  number int DEFAULT nextval('numbers'),
  doubled int GENERATED ALWAYS AS (twice(4)) STORED,
  couple pair,
  CONSTRAINT named CHECK (number > 0),
  UNIQUE (organization_id, number)
);
CREATE TABLE children (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organization_id uuid NOT NULL,
  parent uuid REFERENCES parents (id) ON DELETE CASCADE,
  serial bigserial,
  note text
);
CREATE INDEX children_note ON children (lower(note)) WHERE note IS NOT NULL;
CREATE FUNCTION known() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM parents; END;
CREATE VIEW moods WITH (security_invoker = true) AS SELECT mood, count(*) AS n FROM parents GROUP BY mood;
"""


async def installed(owner: Database, organization: uuid.UUID, sql: str = FIRST) -> Installer:
    installer = Installer(owner)
    content, signature = signed(make_bundle(tickets_manifest(), {"0001_first.sql": sql}))
    await installer.install(content, signature, trusted=TRUSTED, organizations=[organization])
    return installer


async def tried(owner: Database, sql: str, *, rows: str = "", first: str = FIRST) -> Rehearsal:
    """What is seen when `sql` comes as the second migration; `rows` are put in before."""
    organization = await make_organization(owner)
    installer = await installed(owner, organization, first)
    if rows:
        await owner.postgres.execute(rows.replace(":org", f"'{organization}'"))
    bundle = read(tickets_manifest(version="1.1.0"), {"0001_first.sql": first, "0002_next.sql": sql})
    before = await contents(owner)
    found = await installer.rehearse(bundle, [organization])
    assert await left_behind(owner) == []
    assert await contents(owner) == before, "the real schema is as it was"
    return found


async def left_behind(owner: Database) -> list[str]:
    rows = await owner.postgres.fetch(
        "SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'scratch%'"
        " UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)",
        names.scratch_role(await owner.postgres.fetchval("SELECT current_database()"), ""),
    )
    return [row["name"] for row in rows]


async def contents(owner: Database) -> list[Any]:
    return await owner.postgres.fetch(
        "SELECT c.relname, c.relfilenode, a.attname, a.atttypid"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'addon_tickets'::regnamespace ORDER BY 1, 3"
    )


PARENTS = "INSERT INTO addon_tickets.parents (organization_id, number) SELECT :org, g FROM generate_series(1, 5) g"


async def test_everything_that_an_addons_schema_may_hold_is_copied(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    organization = await make_organization(owner_db)
    await installed(owner_db, organization)
    await owner_db.postgres.execute(PARENTS.replace(":org", f"'{organization}'"))
    await owner_db.postgres.execute(
        f"INSERT INTO addon_tickets.children (organization_id, parent, note) SELECT '{organization}', id, 'x'"
        " FROM addon_tickets.parents"
    )

    async with scratch.copy_of(owner_db.direct_url, "tickets", "addon_tickets") as copy:
        owner = await asyncpg.connect(database_urls.owner.replace("+asyncpg", ""))
        try:
            blueprints = []
            for schema in ("addon_tickets", copy.schema):
                async with owner.transaction():
                    blueprints.append(await draw(owner, schema, copy.role))
        finally:
            await owner.close()
        assert sorted(blueprints[0].before) == sorted(blueprints[1].before)
        assert sorted(blueprints[0].after) == sorted(blueprints[1].after)
        assert sorted(blueprints[0].keys) == sorted(blueprints[1].keys)
        count = "SELECT (SELECT count(*) FROM parents), (SELECT count(*) FROM children), known()"
        assert [tuple(row) for row in await copy.connection.fetch(count)] == [(5, 5, 5)]
        assert copy.sizes["parents"] == scratch.Size(5, more=False, sampled=False)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await copy.connection.fetch("SELECT * FROM addon_tickets.parents")
    assert await left_behind(owner_db) == []


@pytest.mark.parametrize(
    ("sql", "lock", "rewrites", "scans"),
    [
        ("ALTER TABLE parents ADD COLUMN extra text;", "AccessExclusiveLock", False, False),
        ("ALTER TABLE parents ALTER COLUMN number TYPE bigint;", "AccessExclusiveLock", True, True),
        ("ALTER TABLE parents ADD CONSTRAINT more CHECK (number < 1000);", "AccessExclusiveLock", False, True),
        ("CREATE INDEX parents_number ON parents (number);", "ShareLock", False, True),
        ("UPDATE parents SET number = number + 100;", "RowExclusiveLock", False, True),
        ("ALTER TABLE parents ADD COLUMN d timestamptz DEFAULT clock_timestamp();", "AccessExclusiveLock", True, True),
    ],
)
async def test_locks_rewrites_and_scans_are_seen(
    owner_db: Database, sql: str, lock: str, rewrites: bool, scans: bool
) -> None:
    found = await tried(owner_db, sql, rows=PARENTS)

    assert found.failure == "" and found.risks == () and found.notes == ()
    (impact,) = [item for item in found.impacts if item.table == "addon_tickets.parents"]
    assert impact.place == "migrations/0002_next.sql:1"
    assert (impact.lock, impact.rewrites, impact.scans, impact.rows) == (lock, rewrites, scans, 5)


async def test_only_with_many_rows_is_it_a_risk(owner_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "COUNTED_ROWS", 4)
    sql = """
    ALTER TABLE parents ALTER COLUMN number TYPE bigint;
    ALTER TABLE children ADD COLUMN more int;
    UPDATE children SET more = 1;
    ALTER TABLE children ADD COLUMN quick int DEFAULT 7;
    """
    rows = PARENTS + "; INSERT INTO addon_tickets.children (organization_id) SELECT :org FROM generate_series(1, 6)"

    found = await tried(owner_db, sql, rows=rows)

    risks = [(risk.kind, risk.subject, risk.message.split()[0]) for risk in found.risks]
    assert risks == [
        (RiskKind.REWRITE, "addon_tickets.parents", "migrations/0002_next.sql:2"),
        # The lock of ADD COLUMN is held while every row is written.
        (RiskKind.LOCK, "addon_tickets.children", "migrations/0002_next.sql:4"),
    ]
    assert "more than 4 rows and is written anew under AccessExclusiveLock" in found.risks[0].message


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("ALTER TABLE parents ADD UNIQUE (organization_id);", "0002_next.sql:1: could not create unique index"),
        ('UPDATE parents SET number = "odd Name"::int;', "0002_next.sql:1: invalid input syntax"),
        ("\n\nALTER TABLE parents ADD CHECK (number > 3);", "0002_next.sql:3: check constraint"),
        ("ALTER TABLE parents ADD COLUMN must int NOT NULL;", "contains null values"),
        ("INSERT INTO parents (organization_id, size) VALUES (gen_random_uuid(), -1);", "positive"),
    ],
)
async def test_what_would_fail_with_the_rows_that_are_there_is_seen(owner_db: Database, sql: str, words: str) -> None:
    rows = PARENTS.replace("(organization_id, number)", '(organization_id, number, "odd Name")').replace(
        "SELECT :org, g", "SELECT :org, g, 'private words'"
    )

    found = await tried(owner_db, sql, rows=rows)

    assert words in found.failure
    assert "private words" not in found.failure


async def test_rows_beyond_the_first_prove_nothing_about_foreign_keys(
    owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "COPIED_ROWS", 2)
    first = FIRST.replace("parent uuid REFERENCES parents (id) ON DELETE CASCADE", "parent uuid")
    rows = (
        PARENTS
        + "; INSERT INTO addon_tickets.children (organization_id, parent) SELECT :org, id FROM addon_tickets.parents"
        " ORDER BY number DESC"
    )

    found = await tried(
        owner_db, "ALTER TABLE children ADD FOREIGN KEY (parent) REFERENCES parents (id);", rows=rows, first=first
    )

    assert found.failure == ""
    assert any("proves nothing" in note for note in found.notes)
    assert any(note == "addon_tickets.parents: tried with some of its rows" for note in found.notes)


async def test_a_new_addon_is_tried_on_nothing(owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    installer = Installer(owner_db)

    good = await installer.rehearse(read(tickets_manifest(), {"0001_a.sql": FIRST}), [organization])
    bad = await installer.rehearse(
        read(tickets_manifest(), {"0001_a.sql": FIRST + "CREATE TABLE b AS SELECT 1 / 0 AS x;"}), [organization]
    )

    assert good == Rehearsal()
    assert "division by zero" in bad.failure
    assert await left_behind(owner_db) == []
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_addons") == 0


async def test_one_process_at_a_time_tries_an_addon(owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    installer = await installed(owner_db, organization)
    bundle = read(tickets_manifest(version="1.1.0"), {"0001_first.sql": FIRST, "0002_b.sql": "SELECT 1;"})
    async with scratch.copy_of(owner_db.direct_url, "tickets", "addon_tickets"):
        with pytest.raises(Unavailable, match="another process"):
            await installer.rehearse(bundle, [organization])
        assert await installer.sweep() == 0, "what is in use is left alone"
    assert (await installer.rehearse(bundle, [organization])).failure == ""


async def test_a_cancelled_rehearsal_leaves_nothing(owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    installer = await installed(owner_db, organization)
    # Without a row the statement would have nothing to do, and be over before it is seen.
    await owner_db.postgres.execute(PARENTS.replace(":org", f"'{organization}'"))
    bundle = read(tickets_manifest(version="1.1.0"), {"0001_first.sql": FIRST, "0002_b.sql": SLOW})
    task = asyncio.create_task(installer.rehearse(bundle, [organization]))
    await running(owner_db, "metacore-migration")

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left_behind(owner_db) == []


SLOW = "UPDATE parents SET number = (SELECT count(*) FROM generate_series(1, 2000000000));"


async def running(owner: Database, name: str) -> None:
    """Wait until a session called `name` runs a statement."""
    query = (
        "SELECT count(*) FROM pg_stat_activity, pg_sleep(0.02)"
        " WHERE application_name = $1 AND state = 'active' AND query LIKE 'UPDATE%'"
    )
    async with asyncio.timeout(60):
        while not await owner.postgres.fetchval(query, name):
            continue


async def test_after_a_kill_the_next_one_takes_what_was_left_away(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    organization = await make_organization(owner_db)
    installer = await installed(owner_db, organization)
    await owner_db.postgres.execute(PARENTS.replace(":org", f"'{organization}'"))
    code = (
        "import asyncio, sys, uuid\n"
        "from tests.integration.test_installer_rehearsal import FIRST, SLOW\n"
        "from tests.tickets import read, tickets_manifest\n"
        "from metacore.db.database import Database\n"
        "from metacore.installer.execute import Installer\n"
        "async def main():\n"
        "    db = await Database.connect(sys.argv[1], pool_size=2)\n"
        "    bundle = read(tickets_manifest(version='1.1.0'), {'0001_first.sql': FIRST, '0002_b.sql': SLOW})\n"
        "    await Installer(db).rehearse(bundle, [uuid.UUID(sys.argv[2])])\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, database_urls.owner, str(organization))
    try:
        await running(owner_db, "metacore-migration")
    finally:
        process.kill()
        await process.wait()
    assert await left_behind(owner_db) != []

    async with asyncio.timeout(60):
        while await installer.sweep() == 0:
            continue  # Until the server noticed that the connection is gone.

    assert await left_behind(owner_db) == []


async def test_a_column_that_the_installer_itself_widens_is_counted(
    owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "COUNTED_ROWS", 4)
    organization = await make_organization(owner_db)
    installer = await installed(owner_db, organization)
    await owner_db.postgres.execute(
        "INSERT INTO addon_tickets.tickets (organization_id, title)"
        f" SELECT '{organization}', g FROM generate_series(1, 5) g"
    )
    models = tickets_manifest()["models"]
    models[0]["columns"][2]["type"] = "bigint"
    bundle = read(tickets_manifest(version="1.1.0", models=models), {"0001_first.sql": FIRST})
    plan = await installer.plan(bundle, [organization])

    found = await installer.rehearse(bundle, [organization], plan)

    assert [(risk.kind, risk.subject) for risk in found.risks] == [(RiskKind.REWRITE, "addon_tickets.tickets")]
    assert [(impact.rewrites, impact.rows, impact.more) for impact in found.impacts] == [(True, 4, True)]


async def test_sqlite_has_nothing_to_try(sqlite_db: Database) -> None:
    assert await Installer(sqlite_db).rehearse(read(tickets_manifest()), []) == Rehearsal()


def test_an_impact_is_json() -> None:
    impact = Impact("a.sql:1", "ALTER TABLE", "s.t", "AccessExclusiveLock", rewrites=True, scans=True, rows=5)
    assert Rehearsal(impacts=(impact,)).as_json()["impacts"][0]["lock"] == "AccessExclusiveLock"


async def test_a_sweep_takes_no_other_roles_of_addons(owner_db: Database, database_urls: DatabaseUrls) -> None:
    organization = await make_organization(owner_db)
    installer = await installed(owner_db, organization)
    query = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'mc__%' ORDER BY 1"
    before = await owner_db.postgres.fetch(query)
    made = [names.role_name, names.guest_role, names.shadow_role, names.scratch_role]
    assert len({make(database_urls.name, "tickets") for make in made}) == len(made)

    assert await installer.sweep() == 0

    assert await owner_db.postgres.fetch(query) == before
