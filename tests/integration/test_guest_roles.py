"""The roles of guests: what the installer makes, grants, takes back and drops, and that it always gets there."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests import killed_install
from tests.conftest import DatabaseUrls, new_database
from tests.factories import make_organization
from tests.guest_world import BARRELS, NOTES, ORDERS, GuestWorld, bundle, guest_world
from tests.tickets import TRUSTED, signed

from metacore.bundle.read import read_bundle
from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import create_all
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, check_kernel_role
from metacore.installer.execute import Installer
from metacore.installer.names import guest_role, shadow_role, tables_role
from metacore.installer.steps import StepKind
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostError

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.killed_install"])

RIGHTS = """
SELECT n.nspname || '.' || c.relname || ' ' || a.privilege_type AS right
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL aclexplode(c.relacl) AS a
WHERE pg_get_userbyid(a.grantee) = $1 AND c.relkind <> 'S'
UNION ALL
SELECT n.nspname || '.' || c.relname || '.' || t.attname || ' ' || a.privilege_type
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute t ON t.attrelid = c.oid,
  LATERAL aclexplode(t.attacl) AS a
WHERE pg_get_userbyid(a.grantee) = $1
UNION ALL
SELECT 'schema ' || n.nspname FROM pg_namespace n, LATERAL aclexplode(n.nspacl) AS a
WHERE pg_get_userbyid(a.grantee) = $1
ORDER BY 1
"""
ROLES = "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1::text[]) ORDER BY rolname"
WHOLE = ("DELETE", "INSERT", "SELECT", "UPDATE")


@pytest.fixture
async def world(owner_db: Database, kernel_db: Database) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=False) as made:
        yield made


async def rights(world: GuestWorld, role: str) -> list[str]:
    return [row["right"] for row in await world.owner.postgres.fetch(RIGHTS, role)]


async def roles(owner: Database, name: str, key: str = "notes") -> list[str]:
    names = [guest_role(name, key), shadow_role(name, key), tables_role(name)]
    return [row["rolname"] for row in await owner.postgres.fetch(ROLES, names)]


async def test_a_role_has_its_own_tables_without_secrets_and_what_was_granted(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    mine = guest_role(database_urls.name, "notes")
    own = await rights(world, mine)
    assert [f"addon_notes.notes {verb}" for verb in WHOLE] == [right for right in own if ".notes " in right]
    accounts = [right for right in own if ".accounts" in right]
    assert [f"addon_notes.accounts {verb}" for verb in ("DELETE", "INSERT", "UPDATE")] == [
        right for right in accounts if ".accounts " in right
    ]
    assert "addon_notes.accounts.login SELECT" in accounts
    assert "addon_notes.accounts.password SELECT" not in accounts
    assert "addon_notes.good_days SELECT" in own
    assert all("addon_notes" in right for right in own)
    assert await rights(world, shadow_role(database_urls.name, "notes")) == []
    await world.grant("read addon_orders.invoices", "write addon_cellar.*", "read users")
    granted = set(await rights(world, mine)) - set(own)
    cellar = [f"addon_cellar_{organization.hex[:8]}" for organization in (world.acme, world.globex)]
    expected = {"schema addon_orders", "addon_orders.invoices SELECT", "schema public"}
    expected |= {f"schema {schema}" for schema in cellar}
    expected |= {f"{schema}.barrels {verb}" for schema in cellar for verb in WHOLE}
    columns = {right for right in granted if right.startswith("public.users.")}
    assert granted - columns == expected
    assert "public.users.email SELECT" in columns
    assert not any("password_hash" in right or "token_epoch" in right or "UPDATE" in right for right in columns)
    await world.grant()
    assert await rights(world, mine) == own


async def test_the_role_of_all_tables_has_no_secret_and_no_table_of_the_kernel(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    everything = await rights(world, tables_role(database_urls.name))
    assert {right.split(".")[0] for right in everything if not right.startswith("schema")} == {
        "addon_notes",
        "addon_orders",
        *(f"addon_cellar_{organization.hex[:8]}" for organization in (world.acme, world.globex)),
    }
    assert not any(".pin " in right or ".password " in right for right in everything)
    assert "addon_orders.safes.label SELECT" in everything
    assert "addon_orders.safes SELECT" not in everything
    assert "addon_orders.safes INSERT" not in everything


async def test_nobody_can_log_in_as_one_and_the_kernel_inherits_nothing(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    names = await roles(world.owner, database_urls.name)
    assert len(names) == 3
    row = await world.owner.postgres.fetchrow(
        "SELECT bool_or(rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)"
        " AS dangerous, bool_or(pg_has_role($2, oid, 'USAGE')) AS inherited,"
        " array_agg(rolname::text ORDER BY rolname) FILTER (WHERE pg_has_role($2, oid, 'SET')) AS becomes"
        " FROM pg_roles WHERE rolname = ANY ($1::text[])",
        names,
        KERNEL_ROLE,
    )
    assert row is not None
    assert (row["dangerous"], row["inherited"]) == (False, False)
    assert row["becomes"] == [guest_role(database_urls.name, "notes"), shadow_role(database_urls.name, "notes")]
    await check_kernel_role(world.kernel)


async def test_a_new_table_of_another_addon_reaches_who_was_granted_its_prefix(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    await world.grant("read addon_orders.*")
    world.enforce()
    refund = {"key": "Refund", "table": "refunds", "columns": [{"name": "amount", "type": "int"}]}
    await world.install(bundle("orders", [*ORDERS, refund], version="1.1.0"))
    assert await world.rows("SELECT amount FROM addon_orders.refunds") == []
    assert "addon_orders.refunds SELECT" in await rights(world, guest_role(database_urls.name, "notes"))


async def test_a_column_that_becomes_secret_is_taken_from_everybody(world: GuestWorld) -> None:
    await world.grant("read addon_orders.*")
    assert await world.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]
    models: list[dict[str, Any]] = [dict(model) for model in ORDERS]
    models[0]["columns"] = [{"name": "number", "type": "string", "size": 200, "widget": "password"}]
    passed: list[str] = []
    seen: list[str] = []

    def point(word: str) -> None:
        passed.append(word)

    world.installer = Installer(world.owner, point=point)
    await world.install(bundle("orders", models, version="1.1.0"))
    # It is hidden before anything else of the new version happens.
    assert passed.index("after guests") < passed.index("before install")
    for mode in ("shadow", "enforce"):
        if mode == "enforce":
            world.enforce()
        refusal = await world.refused("SELECT number FROM addon_orders.invoices")
        assert refusal.code == HostCode.FORBIDDEN
        seen.append(refusal.message)
        # Nor by the database, had the judge not noticed.
        refusal = await world.refused("SELECT i FROM addon_orders.invoices i")
        assert (refusal.code, refusal.sqlstate) == (HostCode.FORBIDDEN, "42501")
    assert all("invoices.number" in message for message in seen)
    await world.install(bundle("orders", ORDERS, version="1.2.0"))
    assert await world.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]


async def test_whatever_was_changed_by_hand_is_mended(world: GuestWorld, database_urls: DatabaseUrls) -> None:
    await world.grant("read addon_orders.invoices")
    mine, shadow = guest_role(database_urls.name, "notes"), shadow_role(database_urls.name, "notes")
    before = [await rights(world, role) for role in (mine, tables_role(database_urls.name))]
    for statement in (
        f"GRANT ALL ON addon_notes.accounts, addon_orders.payments, public.users TO {mine}",
        f"GRANT USAGE ON SCHEMA public TO {mine}",
        f"GRANT SELECT (password_hash) ON public.users TO {mine}",
        f"REVOKE ALL ON addon_notes.notes FROM {mine}",
        f"REVOKE ALL ON SCHEMA addon_orders FROM {mine}",
        f"REVOKE {mine} FROM {KERNEL_ROLE}",
        f"REVOKE {tables_role(database_urls.name)} FROM {shadow}",
    ):
        await world.owner.postgres.execute(statement)
    stored = read_bundle(world.notes_bundle())
    plan = await world.installer.plan(stored, [world.acme])
    assert [step.kind for step in plan.steps] == [StepKind.CLAIM, StepKind.GUESTS, StepKind.INSTALL]
    await world.grant("read addon_orders.invoices")
    after = [await rights(world, role) for role in (mine, tables_role(database_urls.name))]
    assert after == before
    assert (await world.installer.plan(stored, [world.acme])).steps == ()
    assert await world.rows("SELECT title FROM notes") == [{"title": "acme note"}]
    world.enforce()
    assert await world.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]


async def test_an_installation_of_an_older_version_gets_its_roles_at_the_next_reconcile(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    names = await roles(world.owner, database_urls.name)
    superuser = await asyncpg.connect(database_urls.superuser)
    try:
        for role in names:
            await superuser.execute(f"DROP OWNED BY {role}")
            await superuser.execute(f"DROP ROLE {role}")
    finally:
        await superuser.close()
    refusal = await world.refused("SELECT title FROM notes")
    assert refusal.code == HostCode.DB_ERROR
    assert "reconcile" in refusal.message
    await world.grant()
    assert await roles(world.owner, database_urls.name) == names
    assert await world.rows("SELECT title FROM notes") == [{"title": "acme note"}]
    # The tables of others come back with their own reconcile, which knows what is secret in them.
    assert isinstance(await world.query("SELECT 1 FROM addon_orders.invoices"), HostError)
    await world.install(bundle("orders", ORDERS))
    assert await world.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]


async def test_roles_go_with_the_last_installation_and_come_back_with_the_next(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    await world.grant("read addon_orders.invoices", "read users")
    everything = tables_role(database_urls.name)
    await world.installer.uninstall("notes", world.globex, drop=True)
    assert len(await roles(world.owner, database_urls.name)) == 3
    await world.installer.uninstall("notes", world.acme, drop=False)
    assert await roles(world.owner, database_urls.name) == [everything]
    await world.grant()
    assert len(await roles(world.owner, database_urls.name)) == 3
    assert await world.rows("SELECT title FROM notes") == [{"title": "acme note"}]
    await world.installer.remove("notes", drop=True)
    assert await roles(world.owner, database_urls.name) == [everything]
    assert await world.owner.postgres.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'addon_notes'") == 0


async def test_an_addon_that_has_no_code_any_more_has_no_roles(world: GuestWorld, database_urls: DatabaseUrls) -> None:
    await world.install(bundle("notes", NOTES, version="2.0.0"))
    assert await roles(world.owner, database_urls.name) == [tables_role(database_urls.name)]
    await world.install(bundle("notes", NOTES, version="2.1.0", code=True))
    assert len(await roles(world.owner, database_urls.name)) == 3


async def test_addons_without_code_need_one_role_only(owner_db: Database, database_urls: DatabaseUrls) -> None:
    acme = await make_organization(owner_db)
    for content in (bundle("orders", ORDERS), bundle("cellar", BARRELS, tenants=True)):
        await Installer(owner_db).install(*signed(content), trusted=TRUSTED, organizations=[acme])
    found = await owner_db.postgres.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'mc_' || $1 || '%'", tables_role(database_urls.name)[3:]
    )
    assert [row["rolname"] for row in found] == [tables_role(database_urls.name)]


async def test_an_installation_killed_anywhere_gets_to_the_same_roles(
    owner_db: Database, database_urls: DatabaseUrls
) -> None:
    acme = await make_organization(owner_db)
    content, signature = signed(bundle("notes", NOTES, code=True))
    passed: list[str] = []
    await Installer(owner_db, point=passed.append).install(
        content, signature, trusted=TRUSTED, organizations=[acme], grants=None
    )
    expected = await owner_db.postgres.fetch(RIGHTS, guest_role(database_urls.name, "notes"))
    places = [place for place, word in enumerate(passed, 1) if "guests" in word or "install" in word]
    assert len(places) >= 6
    for place in places:
        await Installer(owner_db).remove("notes", drop=True)
        process = forks.Process(
            target=killed_install.install_until, args=(database_urls.owner, content, signature, [acme], place)
        )
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == -signal.SIGKILL, passed[place - 1]
        installer = Installer(owner_db)
        await installer.install(content, signature, trusted=TRUSTED, organizations=[acme])
        found = await owner_db.postgres.fetch(RIGHTS, guest_role(database_urls.name, "notes"))
        assert found == expected, passed[place - 1]
        assert (await installer.plan(read_bundle(content), [acme])).steps == ()


async def test_two_databases_of_one_server_share_nothing(
    world: GuestWorld, database_urls: DatabaseUrls, postgres_server: EmbeddedServer, template_database: str
) -> None:
    async with new_database(postgres_server, template_database) as others:
        owner, kernel = await Database.connect(others.owner), await Database.connect(others.kernel)
        try:
            async with guest_world(owner, kernel, tenants=False) as second:
                await second.grant("read addon_orders.invoices")
                assert not set(await roles(owner, others.name)) & set(await roles(world.owner, database_urls.name))
                await world.installer.remove("notes", drop=True)
                assert await second.rows("SELECT title FROM notes") == [{"title": "acme note"}]
                second.enforce()
                assert await second.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]
                await second.installer.remove("notes", drop=True)
        finally:
            await owner.close()
            await kernel.close()


async def test_a_copy_of_the_database_does_not_hold_an_uninstall_up(
    database_urls: DatabaseUrls, postgres_server: EmbeddedServer
) -> None:
    """A copied database still names the roles of the first one, so they cannot be dropped; they lose their rights."""
    owner = await Database.connect(database_urls.owner)
    mine = guest_role(database_urls.name, "notes")
    try:
        acme = await make_organization(owner)
        content = signed(bundle("notes", NOTES, code=True))
        await Installer(owner).install(*content, trusted=TRUSTED, organizations=[acme])
        await owner.close()
        async with new_database(postgres_server, database_urls.name):
            await owner.open()
            await Installer(owner).remove("notes", drop=True)
            assert await owner.postgres.fetch(RIGHTS, mine) == []
            assert not await owner.postgres.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", KERNEL_ROLE, mine)
            # Whoever installs it again gets the same roles back.
            await Installer(owner).install(*content, trusted=TRUSTED, organizations=[acme])
            assert await owner.postgres.fetchval("SELECT pg_has_role($1, $2, 'SET')", KERNEL_ROLE, mine)
    finally:
        await owner.close()


async def test_one_role_for_everything_becomes_the_guest_as_well(database_urls: DatabaseUrls) -> None:
    """A program that embeds the kernel on the owner's role."""
    one = await Database.connect(database_urls.owner)
    try:
        world = GuestWorld(
            one, one, await make_organization(one), await make_organization(one, "Globex"), tenants=False
        )
        world.installer = Installer(one, kernel_role=OWNER_ROLE)
        await world.install(bundle("orders", ORDERS))
        await world.install(world.notes_bundle())
        own = {"$uuid": str(world.acme)}
        await world.changed("INSERT INTO notes (organization_id, title) VALUES ($1, 'x')", own)
        assert await world.rows("SELECT title FROM notes") == [{"title": "x"}]
        assert await world.rows("SELECT title FROM notes", organization=world.globex) == []
        assert (await world.refused("SELECT email FROM users")).code == HostCode.FORBIDDEN
        world.enforce()
        assert (await world.refused("SELECT 1 FROM addon_orders.invoices")).code == HostCode.FORBIDDEN
    finally:
        await one.close()


async def test_an_owner_that_may_not_make_roles_installs_and_guests_are_told(
    postgres_server: EmbeddedServer, database_urls: DatabaseUrls
) -> None:
    admin = await asyncpg.connect(database_urls.superuser)
    login = f"embedding_{database_urls.name}"
    try:
        await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'embedding'")
        await admin.execute(f"CREATE DATABASE {login} OWNER {login} TEMPLATE template0")
        one = await Database.connect(postgres_server.url(login, "embedding", login))
        try:
            await create_all(one)
            world = GuestWorld(
                one, one, await make_organization(one), await make_organization(one, "Globex"), tenants=False
            )
            world.installer = Installer(one, kernel_role=login)
            await world.install(bundle("notes", NOTES, code=True))
            refusal = await world.refused("SELECT title FROM notes")
            assert refusal.code == HostCode.DB_ERROR
            assert "database role" in refusal.message
            assert (
                await world.installer.plan(read_bundle(bundle("notes", NOTES, code=True)), [world.acme])
            ).steps == ()
        finally:
            await one.close()
        await admin.execute(f"DROP DATABASE {login} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {login}")
    finally:
        await admin.close()
