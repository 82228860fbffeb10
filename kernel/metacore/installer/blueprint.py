"""Statements that make a copy of an addon's schema under another name, read from PostgreSQL's catalogs.

An addon's schema holds only what migrations may make (`metacore.installer.sql_statements`), so this knows those kinds
and no others. Names stand unqualified: whoever runs the statements sets the search path. Rows are not copied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from metacore.db.rls import NO_ORGANIZATION, OWNER_POLICY
from metacore.installer.names import quoted


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """`columns` are those that can be written."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """`before` makes everything that rows need, `after` what is better made when they are there; then `keys`, the
    foreign keys."""

    before: tuple[str, ...]
    tables: tuple[CopiedTable, ...]
    after: tuple[str, ...]
    keys: tuple[str, ...]


async def draw(connection: asyncpg.Connection[asyncpg.Record], schema: str, role: str) -> Blueprint:
    """The blueprint of `schema`, in the transaction of `connection`, for tables that `role` will own."""
    path = f"{quoted(schema)}, public, pg_temp"
    await connection.execute("SELECT pg_catalog.set_config('search_path', $1, true)", path)
    functions = await connection.fetch(FUNCTIONS, schema)
    tables = await connection.fetch(TABLES, schema)
    columns: dict[str, list[asyncpg.Record]] = {row["name"]: [] for row in tables}
    for row in await connection.fetch(COLUMNS, schema):
        columns[row["table"]].append(row)
    prefix = f"{await connection.fetchval('SELECT pg_catalog.quote_ident($1)', schema)}."
    before = [
        *(row["sql"] for row in await connection.fetch(TYPES, schema)),
        *(row["sql"] for row in await connection.fetch(SEQUENCES, schema)),
        "SET LOCAL check_function_bodies = off",
        *(_unqualified(row["sql"], prefix) for row in functions if not row["bound"]),
        *(_table(name, columns[name]) for name in columns),
    ]
    after = [
        *(row["sql"] for row in await connection.fetch(OWNED_SEQUENCES, schema)),
        *(row["sql"] for row in await connection.fetch(CONSTRAINTS, schema, ["p", "u", "x", "c"])),
        *(row["sql"] for row in await connection.fetch(INDEXES, schema)),
        *(_unqualified(row["sql"], prefix) for row in functions if row["bound"]),
        *(row["sql"] for row in await connection.fetch(VIEWS, schema)),
        *(row["sql"] for row in await connection.fetch(TRIGGERS, schema)),
        *(row["sql"] for row in await connection.fetch(POLICIES, schema, OWNER_POLICY)),
        *_owner_policies(tables, role),
    ]
    keys = [row["sql"] for row in await connection.fetch(CONSTRAINTS, schema, ["f"])]
    copied = tuple(
        CopiedTable(name, tuple(row["name"] for row in found if not row["generated"]))
        for name, found in columns.items()
    )
    return Blueprint(tuple(before), copied, tuple(after), tuple(keys))


def _table(name: str, columns: Sequence[asyncpg.Record]) -> str:
    return f"CREATE TABLE {quoted(name)} ({', '.join(row['sql'] for row in columns)})"


def _owner_policies(tables: Sequence[asyncpg.Record], role: str) -> list[str]:
    """FORCE would hide every row from the copy's owner, as it would from a real migration without this policy."""
    statements = []
    for row in tables:
        if not row["secured"]:
            continue
        name = quoted(row["name"])
        rule = f"TO {quoted(role)} USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
        statements += [
            f"CREATE POLICY {OWNER_POLICY} ON {name} {rule}",
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        ]
    return statements


def _unqualified(statement: str, prefix: str) -> str:
    """`pg_get_functiondef` always writes the schema before the function's own name."""
    head = "CREATE OR REPLACE FUNCTION "
    return head + statement.removeprefix(head).removeprefix(prefix)


TYPES = """
SELECT t.oid, pg_catalog.format('CREATE TYPE %I AS ENUM (%s)', t.typname,
    (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
     FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)) AS sql
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typtype = 'e'
UNION ALL
SELECT t.oid, pg_catalog.format('CREATE DOMAIN %I AS %s%s%s %s', t.typname,
    pg_catalog.format_type(t.typbasetype, t.typtypmod), ' DEFAULT ' || t.typdefault,
    CASE WHEN t.typnotnull THEN ' NOT NULL' END,
    (SELECT pg_catalog.string_agg(pg_catalog.format('CONSTRAINT %I %s', c.conname,
        pg_catalog.pg_get_constraintdef(c.oid, true)), ' ')
     FROM pg_catalog.pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'))
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typtype = 'd'
UNION ALL
SELECT t.oid, pg_catalog.format('CREATE TYPE %I AS (%s)', t.typname,
    (SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname,
        pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE n.nspname = $1 AND c.relkind = 'c'
ORDER BY 1
"""

SEQUENCES = """
SELECT pg_catalog.format(
    'CREATE SEQUENCE %I AS %s INCREMENT %s MINVALUE %s MAXVALUE %s START %s CACHE %s%s', c.relname,
    pg_catalog.format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
    CASE WHEN s.seqcycle THEN ' CYCLE' END) AS sql
FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_depend d
  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')
ORDER BY c.oid
"""

OWNED_SEQUENCES = """
SELECT pg_catalog.format('ALTER SEQUENCE %I OWNED BY %I.%I', c.relname, t.relname, a.attname) AS sql
FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE n.nspname = $1 AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'a' AND d.refobjsubid > 0
"""

FUNCTIONS = """
SELECT pg_catalog.pg_get_functiondef(p.oid) AS sql, p.prosqlbody IS NOT NULL AS bound
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1 ORDER BY p.oid
"""

TABLES = """
SELECT c.relname AS name, c.relforcerowsecurity AS secured
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY c.oid
"""

COLUMNS = """
SELECT c.relname AS "table", a.attname AS name, a.attgenerated <> '' AS generated,
  pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::pg_catalog.regcollation::text END,
    CASE WHEN a.attgenerated <> '' THEN 'GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) || ')'
        || CASE a.attgenerated WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END
      WHEN a.attidentity <> '' THEN CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
        ELSE 'GENERATED BY DEFAULT AS IDENTITY' END
      WHEN d.oid IS NOT NULL THEN 'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
    CASE WHEN a.attnotnull THEN 'NOT NULL' END) AS sql
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = $1 AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.oid, a.attnum
"""

CONSTRAINTS = """
SELECT pg_catalog.format('ALTER TABLE %I ADD CONSTRAINT %I %s', c.relname, o.conname,
    pg_catalog.pg_get_constraintdef(o.oid, true)) AS sql
FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND o.contype::text = ANY ($2::text[]) ORDER BY o.oid
"""

INDEXES = """
SELECT pg_catalog.pg_get_indexdef(i.indexrelid, 0, true) AS sql
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r' AND i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conindid = i.indexrelid AND o.conrelid = c.oid)
ORDER BY i.indexrelid
"""

VIEWS = """
SELECT pg_catalog.format('CREATE VIEW %I WITH (%s) AS %s', c.relname,
    pg_catalog.array_to_string(c.reloptions, ', '), pg_catalog.pg_get_viewdef(c.oid, true)) AS sql
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'v' ORDER BY c.oid
"""

TRIGGERS = """
SELECT pg_catalog.pg_get_triggerdef(t.oid, true) AS sql
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND NOT t.tgisinternal ORDER BY t.oid
"""

POLICIES = """
SELECT pg_catalog.format('CREATE POLICY %I ON %I TO PUBLIC USING (%s) WITH CHECK (%s)', p.polname, c.relname,
    pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)) AS sql
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND p.polname <> $2 AND p.polqual IS NOT NULL AND p.polwithcheck IS NOT NULL
"""
