"""Row-level security on every tenant table of the kernel, for the kernel role and for any role that may come."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from tests.conftest import DatabaseUrls
from tests.fixtures.tenants import seed_organization, tenant_column, tenant_tables

from metacore.db.database import Database
from metacore.db.rls import tenant_policies
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE
from metacore.ids import OrganizationId, new_uuid
from metacore.orm.tables import AddonSchema

EVERY_TENANT_TABLE = pytest.mark.parametrize("table", tenant_tables(), ids=lambda table: str(table.name))
numbers = itertools.count(1)


@pytest.fixture
async def guest_db(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    """A role made after the policies, with every right that GRANT can give: only row-level security holds it."""
    role, password = f"guest_{database_urls.name}", "guest"
    admin = await asyncpg.connect(database_urls.superuser)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    await admin.execute(f"GRANT CONNECT ON DATABASE {database_urls.name} TO {role}")
    await admin.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    await admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    place = database_urls.superuser.rpartition("@")[2]
    database = await Database.connect(f"postgresql://{role}:{password}@{place}", pool_size=1)
    try:
        yield database
    finally:
        await database.close()
        await admin.execute(f"DROP OWNED BY {role}")
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


async def rows_of(database: Database, scope: OrganizationId | None, table: Table) -> list[dict[str, Any]]:
    async with database.transaction(scope) as connection:
        return [dict(row) for row in (await connection.execute(select(table))).mappings()]


def another(row: dict[str, Any], table: Table) -> dict[str, Any]:
    """The same row with a key and unique values of its own."""
    copy = dict(row)
    for column in table.primary_key.columns:
        match row[column.name]:
            case str():
                copy[column.name] = f"other_{next(numbers)}"
            case UUID():
                copy[column.name] = new_uuid()
            case int() as number if not isinstance(number, bool):
                copy[column.name] = next(numbers) + 1000
    for name in ("email", "token_hash", "capability", "addon_key"):
        if name in copy:
            copy[name] = f"other-{next(numbers)}"
    return copy


@EVERY_TENANT_TABLE
async def test_each_organization_sees_its_own_rows_only(table: Table, owner_db: Database, guest_db: Database) -> None:
    one, other = await seed_organization(owner_db), await seed_organization(owner_db)
    column = tenant_column(table)
    for organization in (one, other):
        assert {row[column] for row in await rows_of(guest_db, organization, table)} == {organization}
    assert await rows_of(guest_db, None, table) == []
    assert {row[column] for row in await rows_of(owner_db, None, table)} == {one, other}


@EVERY_TENANT_TABLE
async def test_rows_of_another_organization_cannot_be_changed_removed_or_made(
    table: Table, owner_db: Database, guest_db: Database
) -> None:
    one, other = await seed_organization(owner_db), await seed_organization(owner_db)
    column = table.columns[tenant_column(table)]
    foreign = (await rows_of(guest_db, other, table))[0]

    async with guest_db.transaction(one) as connection:
        changed = await connection.execute(update(table).where(column == other).values({column.name: other}))
        assert changed.rowcount == 0
    async with guest_db.transaction(one) as connection:
        assert (await connection.execute(delete(table).where(column == other))).rowcount == 0
    with pytest.raises(DBAPIError, match="row-level security"):
        async with guest_db.transaction(one) as connection:
            values = another(foreign, table)
            values[column.name] = new_uuid() if table.name == "organizations" else other
            await connection.execute(insert(table).values(values))
    with pytest.raises(DBAPIError, match="row-level security"):
        async with guest_db.transaction(one) as connection:
            await connection.execute(update(table).values({column.name: other}))

    assert foreign in await rows_of(owner_db, None, table)


@EVERY_TENANT_TABLE
async def test_policies_are_enabled_forced_and_named(table: Table, owner_db: Database) -> None:
    facts = await owner_db.postgres.fetchrow(
        "SELECT relrowsecurity, relforcerowsecurity, ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid"
        " ORDER BY 1) AS policies FROM pg_class c WHERE c.oid = $1::text::regclass",
        table.name,
    )
    assert facts is not None
    assert facts["relrowsecurity"]
    assert facts["relforcerowsecurity"]
    assert {"metacore_owner", "metacore_tenant"} <= set(facts["policies"])


async def test_everybody_knows_of_shared_schemas_but_cannot_make_them(owner_db: Database, guest_db: Database) -> None:
    one, other = await seed_organization(owner_db), await seed_organization(owner_db)
    async with owner_db.session(None) as session:
        session.add(AddonSchema(name="addon_shop", addon_key="shop"))
    table = AddonSchema.__table__
    assert isinstance(table, Table)
    assert {row["organization_id"] for row in await rows_of(guest_db, one, table)} == {None, one}
    assert {row["organization_id"] for row in await rows_of(guest_db, other, table)} == {None, other}
    with pytest.raises(DBAPIError, match="row-level security"):
        async with guest_db.transaction(one) as connection:
            await connection.execute(insert(table).values(name="addon_mine", addon_key="mine"))


async def test_policies_of_addon_tables_hold_and_can_be_made_again(owner_db: Database, kernel_db: Database) -> None:
    one, other = new_uuid(), new_uuid()
    async with owner_db.postgres.acquire() as connection:
        await connection.execute(f"CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO {KERNEL_ROLE}")
        await connection.execute('CREATE TABLE shop."odd ""name" (tenant uuid, n int)')
        await connection.execute(f'GRANT SELECT ON shop."odd ""name" TO {KERNEL_ROLE}')
        for _ in range(2):
            for statement in tenant_policies("shop", 'odd "name', column="tenant", owner_roles=[OWNER_ROLE]):
                await connection.execute(statement)
        await connection.execute('INSERT INTO shop."odd ""name" VALUES ($1, 1), ($2, 2)', one, other)

    async with kernel_db.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_org', $1, true)", str(one))
        assert await connection.fetchval('SELECT array_agg(n) FROM shop."odd ""name"') == [1]


async def test_without_owner_roles_the_owner_is_held_too(owner_db: Database) -> None:
    async with owner_db.postgres.acquire() as connection:
        await connection.execute("CREATE SCHEMA shop; CREATE TABLE shop.items (organization_id uuid)")
        for statement in tenant_policies("shop", "items", owner_roles=[]):
            await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("INSERT INTO shop.items VALUES (gen_random_uuid())")
