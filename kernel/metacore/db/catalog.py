"""What a database really holds: tables, columns, indexes and policies of one schema, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from metacore.db.rls import quoted

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

PostgresConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """`type` is PostgreSQL's own spelling (`format_type`): `character varying(255)`, `timestamp without time zone`.

    `default` is the SQL expression, or the word `identity`. `generated` columns can never be written.
    """

    name: str
    type: str
    nullable: bool = True
    default: str | None = None
    generated: bool = False


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """`definition` is PostgreSQL's own CREATE INDEX text; `valid` is false after a broken concurrent build.

    `columns` are the key columns in order; expressions stand in `definition` only.
    """

    name: str
    columns: tuple[str, ...]
    unique: bool
    valid: bool
    definition: str = ""


@dataclass(frozen=True, slots=True)
class StoredTable:
    """`has_rows` tells whether there is at least one row, whoever owns it."""

    schema: str
    name: str
    columns: Mapping[str, StoredColumn]
    indexes: Mapping[str, StoredIndex] = field(default_factory=dict)
    constraints: frozenset[str] = frozenset()
    policies: frozenset[str] = frozenset()
    owner: str = ""
    rls_enabled: bool = False
    rls_forced: bool = False
    has_rows: bool = False


async def read_schema(
    connection: PostgresConnection, schema: str, *, probe_rows: bool = False
) -> dict[str, StoredTable]:
    """Every table of `schema` by name; an unknown schema has none.

    `probe_rows` fills `has_rows`, which needs SELECT on every table, as a role whose policy shows all rows.
    """
    tables = {row["name"]: row for row in await connection.fetch(TABLES, schema)}
    columns: dict[str, dict[str, StoredColumn]] = {name: {} for name in tables}
    for row in await connection.fetch(COLUMNS, schema):
        columns[row["table"]][row["name"]] = StoredColumn(
            name=row["name"],
            type=row["type"],
            nullable=row["nullable"],
            default=row["default"],
            generated=row["generated"],
        )
    indexes: dict[str, dict[str, StoredIndex]] = {name: {} for name in tables}
    for row in await connection.fetch(INDEXES, schema):
        indexes[row["table"]][row["name"]] = StoredIndex(
            name=row["name"],
            columns=tuple(row["columns"]),
            unique=row["unique"],
            valid=row["valid"],
            definition=row["definition"],
        )
    filled = await _filled(connection, schema, list(tables)) if probe_rows else frozenset()
    return {
        name: StoredTable(
            schema=schema,
            name=name,
            columns=columns[name],
            indexes=indexes[name],
            constraints=frozenset(row["constraints"]),
            policies=frozenset(row["policies"]),
            owner=row["owner"],
            rls_enabled=row["rls_enabled"],
            rls_forced=row["rls_forced"],
            has_rows=name in filled,
        )
        for name, row in tables.items()
    }


async def _filled(connection: PostgresConnection, schema: str, tables: list[str]) -> frozenset[str]:
    if not tables:
        return frozenset()
    probes = ", ".join(f"EXISTS (SELECT FROM {quoted(schema)}.{quoted(table)})" for table in tables)
    row = await connection.fetchrow(f"SELECT {probes}")
    return frozenset(table for table, found in zip(tables, row or (), strict=True) if found)


TABLES = """
SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
  c.relrowsecurity AS rls_enabled, c.relforcerowsecurity AS rls_forced,
  ARRAY(SELECT o.conname FROM pg_constraint o WHERE o.conrelid = c.oid) AS constraints,
  ARRAY(SELECT p.polname FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
ORDER BY c.relname
"""

COLUMNS = """
SELECT c.relname AS "table", a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
  NOT a.attnotnull AS nullable,
  CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END
    AS "default",
  a.attgenerated <> '' OR a.attidentity = 'a' AS generated
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""

INDEXES = """
SELECT c.relname AS "table", x.relname AS name, i.indisunique AS "unique", i.indisvalid AS valid,
  pg_get_indexdef(i.indexrelid) AS definition,
  ARRAY(
    SELECT a.attname FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE k.place <= i.indnkeyatts ORDER BY k.place
  ) AS columns
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
ORDER BY c.relname, x.relname
"""
