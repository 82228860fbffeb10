"""The two roles: what they are, what the kernel's may do to the last column, and who is refused to serve."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import QUICK_SETTINGS, DatabaseUrls

from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.grants import KERNEL_GRANTS, VERSION_TABLE, addon_grants
from metacore.db.migrate import migrate
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, check_kernel_role, prepare_database
from metacore.errors import Misconfigured
from metacore.orm.tables import metadata

S, I, U, D = "SELECT", "INSERT", "UPDATE", "DELETE"  # noqa: E741 - a table reads better with one letter a verb.

TABLE_PRIVILEGES = {
    "metacore_schema_version": {S},
    "organizations": {S, I, U},
    "users": {S, I, U},
    "auth_sessions": {S, I, U},
    "auth_refresh_tokens": {S, I, U},
    "permission_role_grants": {S, I, U, D},
    "permission_user_grants": {S, I, U, D},
    "metacore_bundles": {S},
    "metacore_registry": {S},
    "metacore_addons": {S},
    "metacore_addon_models": {S},
    "metacore_schemas": {S},
    "metacore_epochs": {S, U},
    "metacore_heartbeats": {S, I, U, D},
    "metacore_requests": {S, I},
    "metacore_events": {S, I},
    "metacore_violations": {S},
    "metacore_jobs": {S, I, U, D},
    "metacore_sequences": {S, I, U},
    "metacore_mode": {S},
    "metacore_connectors": {S, I, U, D},
    "metacore_hook_deliveries": {S, I, U, D},
}
COLUMN_PRIVILEGES = {
    ("metacore_installations", S): set(metadata.tables["metacore_installations"].columns.keys()) - {"secret_hash"},
    ("metacore_installations", U): {"settings", "updated_at"},
    ("metacore_requests", U): {"sealed_result"},
    ("metacore_mode", U): {"mode", "changed_by", "changed_at"},
}

TABLE_QUESTION = """
SELECT c.relname::text AS name, p AS privilege FROM pg_class c,
  unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(c.oid, p)
"""
COLUMN_QUESTION = """
SELECT c.relname::text AS name, p AS privilege, a.attname::text AS "column" FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
  unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
  AND has_column_privilege(c.oid, a.attnum, p) AND NOT has_table_privilege(c.oid, p)
"""


async def test_the_kernel_role_holds_exactly_these_privileges(kernel_db: Database) -> None:
    tables: dict[str, set[str]] = {}
    for row in await kernel_db.postgres.fetch(TABLE_QUESTION):
        tables.setdefault(row["name"], set()).add(row["privilege"])
    columns: dict[tuple[str, str], set[str]] = {}
    for row in await kernel_db.postgres.fetch(COLUMN_QUESTION):
        columns.setdefault((row["name"], row["privilege"]), set()).add(row["column"])
    assert tables == TABLE_PRIVILEGES
    assert columns == COLUMN_PRIVILEGES
    sequences = "SELECT seqrelid::regclass::text FROM pg_sequence WHERE has_sequence_privilege(seqrelid, 'USAGE')"
    assert await kernel_db.postgres.fetch(sequences) == []


async def test_every_table_of_the_kernel_is_decided_on() -> None:
    assert set(KERNEL_GRANTS) == {*metadata.tables, VERSION_TABLE}


async def test_privileges_given_by_hand_are_taken_back_by_the_next_migration(
    database_urls: DatabaseUrls, owner_db: Database, kernel_db: Database
) -> None:
    await owner_db.postgres.execute(f"GRANT ALL ON metacore_journal, users TO {KERNEL_ROLE}")
    await owner_db.postgres.execute(f"GRANT SELECT (secret_hash) ON metacore_installations TO {KERNEL_ROLE}")
    await owner_db.postgres.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    await migrate(database_urls.owner)
    for statement in ("TABLE metacore_journal", "DELETE FROM users", "SELECT secret_hash FROM metacore_installations"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await kernel_db.postgres.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await kernel_db.postgres.execute("CREATE TABLE mine ()")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
        "DROP POLICY metacore_tenant ON users",
        "TRUNCATE users",
        f"SET ROLE {OWNER_ROLE}",
        "COPY users TO PROGRAM 'true'",
        "SELECT pg_read_file('PG_VERSION')",
        "INSERT INTO metacore_bundles (digest, addon_key, version, content) VALUES ('x', 'x', 'x', '')",
        "UPDATE metacore_registry SET revision = 9",
        "UPDATE metacore_installations SET status = 'disabled'",
        "UPDATE metacore_addons SET fenced_reason = ''",
        "TABLE metacore_addon_migrations",
    ],
)
async def test_the_kernel_role_cannot(kernel_db: Database, statement: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidTransactionStateError)):
        await kernel_db.postgres.execute(statement)


async def test_the_owner_role_is_an_ordinary_role_that_makes_schemas_and_roles(owner_db: Database) -> None:
    facts = await owner_db.postgres.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles"
        " WHERE rolname = current_user"
    )
    assert tuple(facts or ()) == (False, False, True, False, False)
    async with owner_db.postgres.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("CREATE SCHEMA shop")
        await connection.execute("CREATE ROLE mca_test_shop LOGIN")
        await connection.execute(f"GRANT mca_test_shop TO {OWNER_ROLE}")
        await connection.execute("ALTER SCHEMA shop OWNER TO mca_test_shop")
        await connection.execute("SET LOCAL ROLE mca_test_shop")
        await connection.execute("CREATE TABLE shop.items ()")
        await transaction.rollback()


async def test_addon_tables_get_rows_and_numbers_but_no_ddl(owner_db: Database, kernel_db: Database) -> None:
    await owner_db.postgres.execute("CREATE SCHEMA shop")
    await owner_db.postgres.execute("CREATE TABLE shop.items (id bigserial PRIMARY KEY, title text)")
    for statement in addon_grants("shop", "items", KERNEL_ROLE):
        await owner_db.postgres.execute(statement)
    assert await kernel_db.postgres.fetchval("INSERT INTO shop.items (title) VALUES ('a') RETURNING id") == 1
    await kernel_db.postgres.execute("UPDATE shop.items SET title = 'b'")
    await kernel_db.postgres.execute("DELETE FROM shop.items")
    for statement in ("TRUNCATE shop.items", "CREATE TABLE shop.more ()", "DROP TABLE shop.items"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await kernel_db.postgres.execute(statement)


@pytest.fixture
async def own_server() -> AsyncIterator[EmbeddedServer]:
    """A server whose roles a test may change."""
    with tempfile.TemporaryDirectory(prefix="metacore-roles-") as folder:
        async with EmbeddedServer(Path(folder) / "data", extra_settings=QUICK_SETTINGS) as server:
            yield server


async def login(server: EmbeddedServer, role: str, password: str, database: str = "app") -> str:
    connection = await asyncpg.connect(server.url(role, password, database))
    try:
        name: str = await connection.fetchval("SELECT current_user::text")
        return name
    finally:
        await connection.close()


async def test_preparing_again_changes_passwords_and_mends_roles(own_server: EmbeddedServer) -> None:
    for owner, kernel in (("o1", "k1"), ("o 2/@:?#%", "k2")):
        await prepare_database(own_server.superuser_url, database="app", owner_password=owner, kernel_password=kernel)
        assert await login(own_server, OWNER_ROLE, owner) == OWNER_ROLE
        assert await login(own_server, KERNEL_ROLE, kernel) == KERNEL_ROLE
        admin = await asyncpg.connect(own_server.superuser_url)
        await admin.execute(f"ALTER ROLE {KERNEL_ROLE} SUPERUSER BYPASSRLS CREATEROLE")
        await admin.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await login(own_server, OWNER_ROLE, "o1")
    await prepare_database(own_server.superuser_url, database="app", owner_password="o", kernel_password="k")
    await migrate(own_server.url(OWNER_ROLE, "o", "app"))
    kernel_db = await Database.connect(own_server.url(KERNEL_ROLE, "k", "app"), pool_size=1)
    await check_kernel_role(kernel_db)
    await kernel_db.close()


async def test_strangers_may_not_even_connect(own_server: EmbeddedServer) -> None:
    await prepare_database(own_server.superuser_url, database="app", owner_password="o", kernel_password="k")
    admin = await asyncpg.connect(own_server.superuser_url)
    await admin.execute("CREATE ROLE stranger LOGIN PASSWORD 's'")
    await admin.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await login(own_server, "stranger", "s")


async def test_an_administrator_without_superuser_can_prepare(own_server: EmbeddedServer) -> None:
    admin = await asyncpg.connect(own_server.superuser_url)
    await admin.execute("CREATE ROLE cloud_admin LOGIN CREATEROLE CREATEDB PASSWORD 'c'")
    await admin.close()
    url = own_server.url("cloud_admin", "c", "postgres")
    for _ in range(2):
        await prepare_database(url, database="app", owner_password="o", kernel_password="k")
    await migrate(own_server.url(OWNER_ROLE, "o", "app"))
    assert await login(own_server, KERNEL_ROLE, "k") == KERNEL_ROLE


async def test_a_login_that_may_not_prepare_is_told_so(database_urls: DatabaseUrls) -> None:
    with pytest.raises(Misconfigured, match="may not prepare"):
        await prepare_database(database_urls.kernel, database="app", owner_password="o", kernel_password="k")


async def test_two_programs_may_prepare_at_once(own_server: EmbeddedServer) -> None:
    await asyncio.gather(
        *(
            prepare_database(own_server.superuser_url, database="app", owner_password="o", kernel_password="k")
            for _ in range(4)
        )
    )
    assert await login(own_server, KERNEL_ROLE, "k") == KERNEL_ROLE


async def test_a_server_that_cannot_be_reached_is_misconfigured_without_the_password() -> None:
    with pytest.raises(Misconfigured) as caught:
        await prepare_database(
            "postgresql://postgres:hunter2@127.0.0.1:1/postgres", database="a", owner_password="o", kernel_password="k"
        )
    assert "hunter2" not in str(caught.value)


async def test_the_kernel_role_may_serve(kernel_db: Database, sqlite_db: Database) -> None:
    await check_kernel_role(kernel_db)
    await check_kernel_role(sqlite_db)


async def refusal(url: str) -> str:
    database = Database(url, pool_size=1)
    try:
        with pytest.raises(Misconfigured) as caught:
            await check_kernel_role(database)
        return str(caught.value)
    finally:
        await database.close()


async def test_superusers_and_owners_are_refused_to_serve(database_urls: DatabaseUrls) -> None:
    assert "is a superuser" in await refusal(database_urls.superuser)
    assert "owns tables" in await refusal(database_urls.owner)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ("ALTER ROLE {role} BYPASSRLS", "bypasses row-level security"),
        ("GRANT postgres TO {role}", "is a member of a role that is a superuser"),
        ("GRANT CREATE ON SCHEMA public TO {role}", "may create tables"),
        (f"GRANT {OWNER_ROLE} TO {{role}}", "owns tables"),
        ("CREATE TABLE mine (); ALTER TABLE mine OWNER TO {role}", "owns tables"),
    ],
)
async def test_a_role_that_could_get_around_policies_is_refused(
    database_urls: DatabaseUrls, changes: str, problem: str
) -> None:
    role = f"almost_{database_urls.name}"
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'a'")
        await admin.execute(f"GRANT CONNECT ON DATABASE {database_urls.name} TO {role}")
        await admin.execute(changes.format(role=role))
        place = database_urls.superuser.rpartition("@")[2]
        said = await refusal(f"postgresql://{role}:a@{place}")
        assert problem in said
        assert role in said
        await admin.execute(f"DROP OWNED BY {role}")
        await admin.execute(f"DROP ROLE {role}")
    finally:
        await admin.close()
