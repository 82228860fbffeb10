"""Reads from a database what a plan starts from. Reading only; the plan itself is made elsewhere."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
from sqlalchemy import Connection, RowMapping, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.bundle.read import read_bundle
from metacore.db.catalog import StoredColumn, StoredIndex, StoredTable, read_schema
from metacore.errors import MetacoreError
from metacore.installer import names
from metacore.installer.sql_fresh import Fresh
from metacore.installer.sql_names import Names
from metacore.installer.state import AddonRow, InstalledRow, OtherAddon, SchemaFacts, State
from metacore.manifest.model import Capability, Requirement
from metacore.orm.tables import (
    Addon,
    AddonMigration,
    AddonModel,
    AddonSchema,
    Bundle,
    Installation,
    Organization,
)

MARKS_SCHEMA = "metacore_marks"
"""Where migrations leave word that they ran; see `metacore.installer.migration_role`."""


async def load_state(
    connection: AsyncConnection,
    key: str,
    *,
    organizations: Collection[uuid.UUID] = (),
    schemas: Callable[[Collection[uuid.UUID]], Sequence[str]],
    kernel_role: str,
    host_models: Mapping[str, str],
    functions: bool = False,
) -> State:
    """The state of `key` in this database: its rows, the organizations, and its schemas.

    `schemas` gives the names of those that it should have, from the organizations that have it already. `functions`
    reads the names of all functions outside the addon's schemas, which only judging SQL needs.
    """
    addon = (await connection.execute(select(Addon.__table__).where(Addon.key == key))).mappings().one_or_none()
    installed = await connection.execute(
        select(Installation.organization_id, Installation.version, Installation.status, Installation.settings)
        .where(Installation.addon_key == key)
        .order_by(Installation.installed_at, Installation.id)
    )
    rows = {row.organization_id: InstalledRow(row.version, row.status, row.settings or {}) for row in installed}
    wanted = {*organizations, *rows}
    found = await connection.execute(select(Organization.id).where(Organization.id.in_(wanted)))
    state = State(
        dialect=connection.dialect.name,
        addon=_addon(addon) if addon is not None else None,
        installed=rows,
        organizations=frozenset(row.id for row in found),
        others=await _others(connection, key),
        models={},
        host=frozenset({*host_models, *host_models.values()}),
    )
    claims = list(await connection.execute(select(AddonModel.__table__).where(AddonModel.addon_key != key)))
    state = replace(
        state,
        models={row.model_key: row.addon_key for row in claims},
        tables={row.table_name: row.addon_key for row in claims},
    )
    if state.dialect == "sqlite":
        tables = await connection.run_sync(_sqlite_tables, f"addon_{key}__")
        return replace(state, schemas={"": SchemaFacts("", exists=True, addon_key=key, tables=tables)})
    return await _load_postgres(connection, key, state, schemas(rows), kernel_role, functions)


async def load_requirements(connection: AsyncConnection, state: State) -> State:
    """`state` with what the other installed addons require, read from their bundles."""
    stored = await connection.execute(
        select(Addon.key, Bundle.content).join(Bundle, Bundle.digest == Addon.digest).where(Addon.key.in_(state.others))
    )
    others = dict(state.others)
    for row in stored:
        requires = await asyncio.to_thread(_requirements, row.content)
        others[row.key] = replace(others[row.key], requires=requires)
    return replace(state, others=others)


def _requirements(content: bytes) -> tuple[Requirement, ...]:
    try:
        return read_bundle(content).manifest.requires
    except MetacoreError:
        return ()  # A bundle that this build cannot read any more is quarantined by every kernel; it holds nobody up.


def _addon(row: RowMapping) -> AddonRow:
    return AddonRow(
        key=row["key"],
        owner_uid=row["owner_uid"],
        digest=row["digest"] or "",
        version=row["version"],
        signer=row["signer"],
        source=row["source"],
        mode=row["mode"],
        grants=tuple(Capability.model_validate(item) for item in row["grants"] or ()),
        fenced_reason=row["fenced_reason"],
        attempt=row["attempt"],
        revision=row["revision"],
    )


async def _others(connection: AsyncConnection, key: str) -> dict[str, OtherAddon]:
    rows = await connection.execute(
        select(Addon.key, Addon.version, Installation.organization_id)
        .outerjoin(Installation, Installation.addon_key == Addon.key)
        .where(Addon.key != key, Addon.digest.is_not(None))
    )
    versions: dict[str, str] = {}
    organizations: dict[str, set[uuid.UUID]] = {}
    for row in rows:
        versions[row.key] = row.version
        organizations.setdefault(row.key, set())
        if row.organization_id is not None:
            organizations[row.key].add(row.organization_id)
    return {other: OtherAddon(other, versions[other], frozenset(organizations[other])) for other in versions}


# PostgreSQL


async def _load_postgres(
    connection: AsyncConnection,
    key: str,
    state: State,
    schemas: Collection[str],
    kernel_role: str,
    functions: bool,
) -> State:
    driver = await driver_of(connection)
    facts = await driver.fetchrow(SERVER, kernel_role)
    assert facts is not None
    role = names.role_name(facts["database"], key)
    roles = await driver.fetchrow(ROLE, role)
    listed = {
        row.name: row
        for row in await connection.execute(select(AddonSchema.__table__).where(AddonSchema.addon_key == key))
    }
    others = await connection.execute(select(AddonSchema.__table__).where(AddonSchema.name.in_(schemas)))
    listed.update({row.name: row for row in others})
    kernel = facts["kernel_role"] or ""
    outside = await driver.fetch(TAKEN_FUNCTIONS) if functions else []
    taken = frozenset(row["proname"] for row in outside)
    applied = await _applied(connection, driver, key)
    read = {}
    for name in dict.fromkeys((*schemas, *listed)):
        row = listed.get(name)
        read[name] = SchemaFacts(
            name,
            addon_key=row.addon_key if row is not None else "",
            organization_id=row.organization_id if row is not None else None,
            applied=applied.get(name, {}),
            **await _schema(driver, name, kernel, taken),
        )
    return replace(
        state,
        server_version=facts["version"],
        owner_role=facts["owner"],
        kernel_role=kernel,
        addon_role=role,
        addon_role_made=roles is not None,
        addon_role_exists=roles is not None and roles["member"],
        schemas=read,
    )


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection[asyncpg.Record]:
    """The asyncpg connection beneath, inside the same transaction."""
    await connection.execute(text("SELECT 1"))  # SQLAlchemy begins the transaction with the first statement.
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


async def _schema(
    driver: asyncpg.Connection[asyncpg.Record], name: str, kernel_role: str, taken: frozenset[str]
) -> dict[str, Any]:
    owner = await driver.fetchval("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = $1", name)
    if owner is None:
        return {"names": Names(taken_functions=taken)}
    tables = await read_schema(driver, name, probe_rows=True)
    granted = await driver.fetch(GRANTED, name, kernel_role) if kernel_role else []
    known: dict[str, set[str]] = {"view": set(), "type": set(), "function": set()}
    for row in await driver.fetch(OBJECTS, name):
        known[row["kind"]].add(row["name"])
    writing = await driver.fetch(WRITING, name) if known["function"] else []
    return {
        "exists": True,
        "owner": owner,
        "tables": tables,
        "granted": frozenset(row["relname"] for row in granted) if kernel_role else frozenset(tables),
        "names": Names(
            tables=set(tables),
            views=known["view"],
            types=known["type"],
            functions=known["function"],
            taken_functions=taken,
            fresh=Fresh({table: frozenset(found.columns) for table, found in tables.items()}, views=set(known["view"])),
            writing=frozenset(row["name"] for row in writing),
        ),
    }


async def _applied(
    connection: AsyncConnection, driver: asyncpg.Connection[asyncpg.Record], key: str
) -> dict[str, dict[str, str]]:
    """What ran, by schema: recorded by the installer, or only marked by the migration before somebody killed us."""
    applied: dict[str, dict[str, str]] = {}
    rows = await connection.execute(select(AddonMigration.__table__).where(AddonMigration.addon_key == key))
    for row in rows:
        applied.setdefault(row.schema, {})[row.version] = row.checksum
    marks = f"{MARKS_SCHEMA}.{names.quoted(key)}"
    if await driver.fetchval("SELECT to_regclass($1)", marks) is not None:
        for mark in await driver.fetch(f"SELECT schema, version, checksum FROM {marks} WHERE schema <> ''"):  # noqa: S608
            applied.setdefault(mark["schema"], {})[mark["version"]] = mark["checksum"]
    return applied


SERVER = """
SELECT current_setting('server_version_num')::int AS version, current_user AS owner, current_database() AS database,
  (SELECT rolname FROM pg_roles WHERE rolname = $1 AND rolname <> current_user) AS kernel_role
"""

ROLE = "SELECT pg_has_role(current_user, oid, 'USAGE') AS member FROM pg_roles WHERE rolname = $1"

TAKEN_FUNCTIONS = """
SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('pg_catalog', 'public')
"""

GRANTED = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND has_schema_privilege($2, n.oid, 'USAGE')
  AND has_table_privilege($2, c.oid, 'SELECT') AND has_table_privilege($2, c.oid, 'INSERT')
  AND has_table_privilege($2, c.oid, 'UPDATE') AND has_table_privilege($2, c.oid, 'DELETE')
  AND NOT EXISTS (
    SELECT FROM pg_sequence q JOIN pg_class s ON s.oid = q.seqrelid
    WHERE s.relnamespace = n.oid AND NOT has_sequence_privilege($2, q.seqrelid, 'USAGE')
  )
"""

OBJECTS = """
SELECT 'view' AS kind, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'v'
UNION ALL SELECT 'type', t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname = $1 AND (t.typtype IN ('e', 'd') OR c.relkind = 'c')
UNION ALL SELECT 'function', p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1
"""

WRITING = """
WITH RECURSIVE reaching (class, object) AS (
  SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname = $1 AND pg_get_function_sqlbody(p.oid) ~ '\\m(UPDATE|DELETE|MERGE)\\M'
  UNION SELECT further.* FROM reaching r, LATERAL (
    SELECT d.classid, d.objid FROM pg_depend d WHERE d.refclassid = r.class AND d.refobjid = r.object
    UNION ALL SELECT d.refclassid, d.refobjid FROM pg_depend d
    WHERE d.classid = r.class AND d.objid = r.object AND d.deptype IN ('a', 'i') AND d.classid IN (
      'pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass)
  ) AS further
)
SELECT p.proname AS name FROM reaching r JOIN pg_proc p ON r.class = 'pg_proc'::regclass AND p.oid = r.object
UNION SELECT c.relname FROM reaching r JOIN pg_class c ON r.class = 'pg_class'::regclass AND c.oid = r.object
UNION SELECT t.typname FROM reaching r JOIN pg_type t ON r.class = 'pg_type'::regclass AND t.oid = r.object
"""
"""Functions whose body changes rows (only those of BEGIN ATOMIC may, and PostgreSQL writes them out in capitals), and
all that depends on them: what a view, a default, a check or a trigger calls runs when its relation or type is used."""


# SQLite


def _sqlite_tables(connection: Connection, prefix: str) -> dict[str, StoredTable]:
    found = inspect(connection)
    return {
        name: StoredTable(
            schema="",
            name=name,
            columns={column["name"]: _sqlite_column(column) for column in found.get_columns(name)},
            indexes=_sqlite_indexes(found.get_indexes(name)),
            has_rows=_has_rows(connection, name),
        )
        for name in found.get_table_names()
        if name.startswith(prefix)
    }


def _has_rows(connection: Connection, name: str) -> bool:
    probe = f"SELECT EXISTS (SELECT 1 FROM {names.quoted(name)})"  # noqa: S608 - a quoted name.
    return bool(connection.exec_driver_sql(probe).scalar())


def _sqlite_column(column: Mapping[str, Any]) -> StoredColumn:
    """Without a type: SQLite holds any value in any column, so there is nothing to compare."""
    return StoredColumn(column["name"], "", nullable=column["nullable"], default=column["default"])


def _sqlite_indexes(found: Iterable[Mapping[str, Any]]) -> dict[str, StoredIndex]:
    return {
        index["name"]: StoredIndex(
            index["name"], _columns(index["column_names"]), unique=bool(index["unique"]), valid=True
        )
        for index in found
    }


def _columns(found: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(name for name in found if name is not None)
