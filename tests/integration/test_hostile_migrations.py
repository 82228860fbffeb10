"""SQL of an addon that tries to get out: refused before anything runs, and without power where it would run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import asyncpg
import pytest
from pglast import parser
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, make_user
from tests.hostile_sql import HOSTILE, SETUP
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.db.database import Database
from metacore.errors import InstallFailed, MetacoreError, MigrationRefused
from metacore.installer import pending
from metacore.installer.execute import Installer
from metacore.installer.names import role_name
from metacore.installer.sql_migrations import JudgedMigration, JudgedStatement, Migration
from metacore.installer.sql_names import Names

EVERYTHING = """
WITH ours AS (SELECT * FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
SELECT 'schema ' || nspname || coalesce(nspacl::text, '') || nspowner FROM ours
UNION ALL SELECT 'relation ' || c.oid::regclass || c.relowner || c.relrowsecurity || c.relforcerowsecurity
    || coalesce(c.relacl::text, '') || coalesce(c.reloptions::text, '')
  FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
UNION ALL SELECT 'column ' || a.attrelid::regclass || a.attname || a.atttypid
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ours n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND NOT a.attisdropped
UNION ALL SELECT 'policy ' || polrelid::regclass || polname || pg_get_expr(polqual, polrelid) FROM pg_policy
UNION ALL SELECT 'function ' || p.oid::regprocedure || prosecdef FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
UNION ALL SELECT 'trigger ' || tgrelid::regclass || tgname FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
UNION ALL SELECT 'extension ' || extname FROM pg_extension
UNION ALL SELECT 'role ' || rolname || rolsuper || rolbypassrls || rolcreaterole || rolcanlogin
    || coalesce(rolconfig::text, '') FROM pg_roles
UNION ALL SELECT 'member ' || roleid || '-' || member FROM pg_auth_members
UNION ALL SELECT 'setting ' || setdatabase || setconfig::text FROM pg_db_role_setting
UNION ALL SELECT 'addon ' || key || version || attempt FROM metacore_addons
UNION ALL SELECT 'user ' || email || role || password_hash FROM users
UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata
ORDER BY 1
"""


async def everything(urls: DatabaseUrls) -> list[str]:
    """A database and its roles as the superuser sees them, as lines of text."""
    connection = await asyncpg.connect(urls.superuser)
    try:
        return [row[0] for row in await connection.fetch(EVERYTHING)]
    finally:
        await connection.close()


async def install_sql(installer: Installer, organization: uuid.UUID, *files: str, version: str = "1.0.0") -> None:
    migrations = {f"{number:04}_step.sql": sql for number, sql in enumerate(files, start=1)}
    content, signature = signed(make_bundle(tickets_manifest(version=version), migrations))
    await installer.install(content, signature, trusted=TRUSTED, organizations=[organization])


async def test_every_hostile_migration_is_refused_before_anything_runs(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await make_user(owner_db, acme)
    before = await everything(database_urls)
    assert len(HOSTILE) >= 40
    writable = {what: sql for what, sql in HOSTILE.items() if "\x00" not in sql}
    assert len(writable) == len(HOSTILE) - 1  # The bundle's reader refuses that one already.
    for what, sql in writable.items():
        with pytest.raises(MigrationRefused) as refusal:
            # The harmless file before it must not have run either.
            await install_sql(installer, acme, "CREATE TABLE fine (id uuid, organization_id uuid);", SETUP + sql)
        assert refusal.value.problems[0].field.startswith("migrations/0002_step.sql:"), what
    assert await everything(database_urls) == before


async def test_an_installed_addon_is_untouched_by_a_hostile_upgrade(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await install_sql(installer, acme, "CREATE TABLE fine (id uuid, organization_id uuid);")
    before = await everything(database_urls)
    for sql in (
        "ALTER TABLE tickets DISABLE ROW LEVEL SECURITY",
        "RESET ROLE",
        "ALTER TABLE fine OWNER TO metacore_kernel",
    ):
        with pytest.raises(MigrationRefused):
            await install_sql(
                installer, acme, "CREATE TABLE fine (id uuid, organization_id uuid);", sql, version="1.1.0"
            )
    assert await everything(database_urls) == before


# -- beneath the judgement


def unjudged(migrations: Sequence[Migration], known: Names) -> tuple[JudgedMigration, ...]:
    """What a judge that lets everything through would return."""
    return tuple(
        JudgedMigration(
            file.version,
            file.name,
            file.path,
            file.checksum,
            tuple(JudgedStatement(sql, 1, "Stmt") for sql in parser.split(file.sql)),
        )
        for file in migrations
    )


BEYOND: dict[str, str] = {
    "row security of another addon": "ALTER TABLE addon_other.secrets DISABLE ROW LEVEL SECURITY",
    "rows of another addon": "CREATE TABLE stolen AS SELECT * FROM addon_other.secrets",
    "writing to another addon": "UPDATE addon_other.secrets SET token = 'x'",
    "dropping another addon's table": "DROP TABLE addon_other.secrets",
    "truncating it": "TRUNCATE addon_other.secrets",
    "policy on another addon": "CREATE POLICY p ON addon_other.secrets USING (true)",
    "trigger on another addon": (
        "CREATE TRIGGER t BEFORE INSERT ON addon_other.secrets FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "key into another addon": "ALTER TABLE notes ADD FOREIGN KEY (id) REFERENCES addon_other.secrets (id)",
    "view over another addon": "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM addon_other.secrets",
    "rule on another addon": "CREATE RULE r AS ON INSERT TO addon_other.secrets DO ALSO NOTHING",
    "table in another addon's schema": "CREATE TABLE addon_other.more (id int)",
    "kernel's users": "CREATE TABLE stolen AS SELECT * FROM public.users",
    "kernel's grants": "INSERT INTO public.permission_role_grants (id, role) VALUES (gen_random_uuid(), 'x')",
    "kernel's bundles": "UPDATE public.metacore_bundles SET content = ''",
    "kernel's migrations": "DELETE FROM public.metacore_addon_migrations",
    "kernel's login": "SELECT * FROM public.metacore_login('x')",
    "another addon's marks": "INSERT INTO metacore_marks.other (schema, version, checksum) VALUES ('a', 'b', 'c')",
    "its own marks": "UPDATE metacore_marks.tickets SET checksum = 'x'",
    "its own marks away": "DROP TABLE metacore_marks.tickets",
    "public schema": "CREATE TABLE public.mine (id int)",
    "new schema": "CREATE SCHEMA mine",
    "temporary table": "CREATE TEMPORARY TABLE mine (id int)",
    "owner by role": "SET ROLE metacore_owner",
    "owner by authorization": "SET SESSION AUTHORIZATION metacore_owner",
    "reset role, then more": "RESET ROLE; ALTER TABLE addon_other.secrets NO FORCE ROW LEVEL SECURITY",
    "role of another addon": (
        "DO $$ BEGIN EXECUTE 'SET ROLE ' || (SELECT rolname FROM pg_roles WHERE rolname ~ '_other$' LIMIT 1); END $$"
    ),
    "superuser": "ALTER ROLE CURRENT_USER SUPERUSER",
    "bypass": "ALTER ROLE CURRENT_USER BYPASSRLS",
    "new role": "CREATE ROLE intruder LOGIN",
    "membership": "GRANT metacore_owner TO CURRENT_USER",
    "extension": "CREATE EXTENSION dblink",
    "program": "COPY notes TO PROGRAM 'true'",
    "file": "COPY notes FROM '/etc/passwd'",
    "reading files": "SELECT pg_read_file('PG_VERSION')",
    "event trigger": "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    "system setting": "ALTER SYSTEM SET fsync = off",
    "database setting": (
        "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET row_security = off'; END $$"
    ),
    "other sessions": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'metacore_owner' AND "
    "pid <> pg_backend_pid() AND pg_terminate_backend(pid)",
}

FOUND_AFTERWARDS: dict[str, str] = {
    "definer function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "function in another language": "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN END'",
    "view of its owner": "CREATE VIEW v AS SELECT * FROM notes",
    "materialized view": "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",
    "policy of its own": "CREATE POLICY p ON tickets USING (true)",
    "row security off": "ALTER TABLE tickets DISABLE ROW LEVEL SECURITY",
    "row security not forced": "ALTER TABLE tickets NO FORCE ROW LEVEL SECURITY",
    "policy gone": "DROP POLICY metacore_tenant ON tickets",
    "rights for everybody": "GRANT SELECT ON notes TO PUBLIC",
    "rule": "CREATE RULE r AS ON INSERT TO notes DO ALSO NOTHING",
    "inheritance": "CREATE TABLE child () INHERITS (notes)",
    "partitions": "CREATE TABLE parts (id int) PARTITION BY LIST (id)",
}


async def served(owner_db: Database) -> tuple[Installer, uuid.UUID]:
    """An organization with two addons: `other` with a secret row, and `tickets`, which will try to reach it."""
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await make_user(owner_db, acme)
    other = tickets_manifest(key="other", models=[])
    content, signature = signed(
        make_bundle(
            other, {"0001_x.sql": "CREATE TABLE secrets (id uuid PRIMARY KEY, organization_id uuid, token text);"}
        )
    )
    await installer.install(content, signature, trusted=TRUSTED, organizations=[acme])
    await owner_db.postgres.execute("INSERT INTO addon_other.secrets VALUES (gen_random_uuid(), $1, 'precious')", acme)
    await install_sql(installer, acme, SETUP)
    return installer, acme


async def test_even_without_a_judge_the_role_cannot_leave_its_schema(
    owner_db: Database, database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer, acme = await served(owner_db)
    before = [line for line in await everything(database_urls) if not line.startswith("addon tickets")]
    monkeypatch.setattr(pending, "judge", unjudged)
    for what, sql in BEYOND.items():
        with pytest.raises(MetacoreError) as failure:
            await install_sql(installer, acme, SETUP, sql, version="1.1.0")
        assert isinstance(failure.value, InstallFailed), (what, failure.value)
        assert failure.value.step == "migration addon_tickets 0002", what
        after = [line for line in await everything(database_urls) if not line.startswith("addon tickets")]
        assert after == before, what
    assert await owner_db.postgres.fetchval("SELECT token FROM addon_other.secrets") == "precious"


async def test_even_without_a_judge_what_it_leaves_behind_is_looked_at_before_it_counts(
    owner_db: Database, database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer, acme = await served(owner_db)
    before = [line for line in await everything(database_urls) if not line.startswith("addon tickets")]
    monkeypatch.setattr(pending, "judge", unjudged)
    for what, sql in FOUND_AFTERWARDS.items():
        with pytest.raises(InstallFailed, match="is taken back") as failure:
            await install_sql(installer, acme, SETUP, sql, version="1.1.0")
        assert failure.value.step == "migration addon_tickets 0002", what
        after = [line for line in await everything(database_urls) if not line.startswith("addon tickets")]
        assert after == before, what


async def test_one_statement_is_what_the_server_sees_too(owner_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    installer, acme = await served(owner_db)

    def smuggling(migrations: Sequence[Migration], known: Names) -> tuple[JudgedMigration, ...]:
        (file,) = unjudged(migrations, known)
        two = JudgedStatement("SELECT 1; CREATE TABLE smuggled (id int)", 1, "SelectStmt")
        return (JudgedMigration(file.version, file.name, file.path, file.checksum, (two,)),)

    monkeypatch.setattr(pending, "judge", smuggling)
    with pytest.raises(InstallFailed, match="multiple commands"):
        await install_sql(installer, acme, SETUP, "SELECT 1", version="1.1.0")


async def test_the_role_can_log_in_only_while_its_migrations_run(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    await served(owner_db)
    role = role_name(database_urls.name, "tickets")
    row = await owner_db.postgres.fetchrow(
        "SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1", role
    )
    assert row is not None
    assert tuple(row) == (False, False, False)
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        assert await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role) is None
        owned = await admin.fetch(
            "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE pg_get_userbyid(c.relowner) = $1 AND n.nspname <> 'pg_toast'",
            role,
        )
        assert [record["nspname"] for record in owned] == ["addon_tickets"]
    finally:
        await admin.close()
