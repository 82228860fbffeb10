"""What becomes of an addon's data when organizations leave it or it goes whole: kept, or dropped as far as theirs."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.catalog import StoredTable
from metacore.installer import guest_roles, handlers, register
from metacore.installer.names import quoted
from metacore.installer.observe import MARKS_SCHEMA, driver_of
from metacore.installer.standing import Asker, losses_of_others, taking_away
from metacore.installer.state import SchemaFacts, State
from metacore.installer.steps import Plan
from metacore.orm.tables import AddonMigration, AddonSchema, Installation

TENANT_COLUMN = "organization_id"
"""Tells whose a row is in every table of a shared schema; the installer takes no other (`tables.tenant_column`)."""


async def leave(
    connection: AsyncConnection,
    key: str,
    state: State,
    organizations: Collection[uuid.UUID],
    *,
    drop: bool,
    whole: bool = False,
) -> None:
    """Delete installations and, with `drop`, what belonged to them: their own schemas, their rows in a shared one, and
    the shared schema itself once nobody has the addon and nobody's rows are in it.

    Who left before without `drop` wants to find its data again, so it is not theirs to take who leave later. Only with
    `whole`, the word of the addon's owner, everything goes.
    """
    for organization in organizations:
        await connection.execute(
            delete(Installation).where(Installation.addon_key == key, Installation.organization_id == organization)
        )
    await handlers.left(connection, key, organizations)
    if not drop:
        return
    unused = not await register.installations_of(connection, key)
    if state.dialect == "sqlite":
        await _drop_sqlite(connection, state, organizations, unused=unused, whole=whole)
        return
    for schema in state.schemas.values():
        if whole or schema.organization_id in organizations:
            await _drop_schema(connection, key, schema.name)
        elif schema.organization_id is None:
            await _delete_rows(connection, schema, organizations)
            if unused and not await _has_rows(connection, schema):
                await _drop_schema(connection, key, schema.name)
    left = await connection.execute(select(AddonSchema.name).where(AddonSchema.addon_key == key))
    if left.first() is None:
        await _drop_role(connection, key, state)


async def _drop_schema(connection: AsyncConnection, key: str, schema: str) -> None:
    driver = await driver_of(connection)
    await driver.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    if await driver.fetchval("SELECT to_regclass($1)", marks) is not None:
        await driver.execute(f"DELETE FROM {marks} WHERE schema = $1", schema)  # noqa: S608 - a quoted name.
    await connection.execute(delete(AddonMigration).where(AddonMigration.schema == schema))
    await connection.execute(delete(AddonSchema).where(AddonSchema.name == schema))


async def _delete_rows(connection: AsyncConnection, schema: SchemaFacts, organizations: Collection[uuid.UUID]) -> None:
    """The rows of organizations in a schema that others use or left rows in; what points at other rows goes first."""
    driver = await driver_of(connection)
    tables = [table.name for table in schema.tables.values() if TENANT_COLUMN in table.columns]
    points = [(row["child"], row["parent"]) for row in await driver.fetch(POINTS, schema.name)]
    for name in children_first(tables, points):
        await driver.execute(
            f"DELETE FROM {quoted(schema.name)}.{quoted(name)} WHERE {TENANT_COLUMN} = ANY ($1::uuid[])",  # noqa: S608
            list(organizations),
        )


async def spare_kept(
    connection: AsyncConnection, plan: Plan, state: State, organizations: Sequence[uuid.UUID], asker: Asker
) -> None:
    """Whether a tenant's bundle leaves alone what organizations have kept that left the addon: their rows are in its
    shared schema still. For those that have the addon, see `metacore.installer.standing.spare_others`.

    Raises:
        Refused: with the code `data_at_risk`, as that does.
    """
    risks = losses_of_others(plan, state, organizations, asker)
    for name in dict.fromkeys(risk.subject for risk in risks):
        tables = [table.name for table in state.schema(name).tables.values() if TENANT_COLUMN in table.columns]
        probes = [
            f"EXISTS (SELECT 1 FROM {quoted(name)}.{quoted(table)} WHERE {TENANT_COLUMN} <> ALL ($1::uuid[]))"  # noqa: S608
            for table in tables
        ]
        driver = await driver_of(connection)
        if probes and await driver.fetchval(f"SELECT {' OR '.join(probes)}", list(organizations)):
            raise taking_away(plan, risks, "organizations that left the addon have kept theirs")


async def _has_rows(connection: AsyncConnection, schema: SchemaFacts) -> bool:
    """Whether rows of any organization are in a shared schema. Those that belong to nobody go with it."""
    if not schema.tables:
        return False
    driver = await driver_of(connection)
    probes = [_probe(f"{quoted(schema.name)}.{quoted(table.name)}", table) for table in schema.tables.values()]
    return bool(await driver.fetchval(f"SELECT {' OR '.join(probes)}"))


def _probe(place: str, table: StoredTable) -> str:
    """The SQL of whether somebody's row is in a table. Where no column tells whose they are, any might be."""
    owned = f" WHERE {TENANT_COLUMN} IS NOT NULL" if TENANT_COLUMN in table.columns else ""
    return f"EXISTS (SELECT 1 FROM {place}{owned})"  # noqa: S608 - a quoted name.


def children_first(tables: Sequence[str], points: Sequence[tuple[str, str]]) -> list[str]:
    """`tables` so that each stands before those that it points at; in a circle the order is that of the names."""
    parents: dict[str, set[str]] = {name: set() for name in tables}
    for child, parent in points:
        if child in parents and parent in parents and child != parent:
            parents[child].add(parent)
    order: list[str] = []
    waiting = set(tables)
    while waiting:
        pointed_at = {parent for child in waiting for parent in parents[child]}
        free = sorted(waiting - pointed_at) or sorted(waiting)[:1]
        order.extend(free)
        waiting -= set(free)
    return order


async def _drop_role(connection: AsyncConnection, key: str, state: State) -> None:
    driver = await driver_of(connection)
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    if await driver.fetchval("SELECT to_regclass($1)", marks) is not None:
        await driver.execute(f"DROP TABLE {marks}")
    if state.addon_role_exists:
        role = quoted(state.addon_role)
        await driver.execute(f"DROP OWNED BY {role}")
        await driver.execute(f"DROP ROLE {role}")


async def drop_guests(connection: AsyncConnection, key: str, kernel_role: str) -> None:
    """Once nobody has the addon, nothing runs as its guests any more, whether or not its data stays."""
    if connection.dialect.name != "postgresql" or await register.installations_of(connection, key):
        return
    await guest_roles.sync(await driver_of(connection), guest_roles.Need(key), kernel_role)


async def _drop_sqlite(
    connection: AsyncConnection, state: State, organizations: Collection[uuid.UUID], *, unused: bool, whole: bool
) -> None:
    tables = state.schemas[""].tables
    for name, table in tables.items():
        if TENANT_COLUMN not in table.columns:
            continue
        for organization in organizations:
            statement = text(f"DELETE FROM {quoted(name)} WHERE {TENANT_COLUMN} = :organization")  # noqa: S608
            await connection.execute(statement, {"organization": organization.hex})
    if not whole:
        if not unused or not tables:
            return
        probes = " OR ".join(_probe(quoted(name), table) for name, table in tables.items())
        if (await connection.exec_driver_sql(f"SELECT {probes}")).scalar():
            return
    for name in tables:
        await connection.exec_driver_sql(f"DROP TABLE {quoted(name)}")


POINTS = """
SELECT c.relname AS child, f.relname AS parent
FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_class f ON f.oid = o.confrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND o.contype = 'f'
"""
