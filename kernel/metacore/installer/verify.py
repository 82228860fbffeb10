"""What an addon's schema must never hold, asked of PostgreSQL's catalogs after the addon's own SQL ran."""

from __future__ import annotations

import asyncpg

from metacore.db.rls import OWNER_POLICY, TENANT_POLICY


async def findings(connection: asyncpg.Connection[asyncpg.Record], schema: str, role: str) -> list[str]:
    """Everything in `schema` that breaks a rule, in words; `role` is whom its objects belong to.

    The queries name every object with its schema, so nothing that the addon made can stand in for a catalog.
    """
    rows = await connection.fetch(FINDINGS, schema, role, [TENANT_POLICY, OWNER_POLICY])
    return [f"{row['what']} {row['name']} {row['problem']}" for row in rows]


FINDINGS = """
SELECT 'relation' AS what, c.relname::text AS name, 'belongs to ' || pg_catalog.pg_get_userbyid(c.relowner) AS problem
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND pg_catalog.pg_get_userbyid(c.relowner) <> $2 AND c.relkind NOT IN ('i', 'I')
UNION ALL
SELECT 'relation', c.relname::text, 'is of a kind that an addon may not have (' || c.relkind::text || ')'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('f', 'm', 'p')
UNION ALL
SELECT 'table', c.relname::text, 'inherits from another table'
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r'
UNION ALL
SELECT 'view', c.relname::text, 'does not run with the rights of its reader (security_invoker)'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'v' AND NOT EXISTS (
  SELECT FROM pg_catalog.unnest(c.reloptions) AS o (option)
  WHERE o.option IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'))
UNION ALL
SELECT 'table', c.relname::text, 'carries a policy of its own (' || p.polname || ')'
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND p.polname <> ALL ($3::text[])
UNION ALL
SELECT 'table', c.relname::text, 'is used by others and lost its row security'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r'
  AND EXISTS (SELECT FROM pg_catalog.aclexplode(c.relacl) AS a WHERE a.grantee <> c.relowner)
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity
    AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid) = 2)
UNION ALL
SELECT 'table', c.relname::text, 'carries a rule (' || r.rulename || ')'
FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind <> 'v'
UNION ALL
SELECT 'table', c.relname::text, 'grants rights to ' || CASE a.grantee WHEN 0 THEN 'everybody'
  ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
  LATERAL pg_catalog.aclexplode(c.relacl) AS a
WHERE n.nspname = $1 AND c.relkind IN ('r', 'v') AND a.grantee = 0
UNION ALL
SELECT 'function', p.proname::text, 'belongs to ' || pg_catalog.pg_get_userbyid(p.proowner)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1 AND pg_catalog.pg_get_userbyid(p.proowner) <> $2
UNION ALL
SELECT 'function', p.proname::text, 'runs with the rights of its owner (SECURITY DEFINER)'
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1 AND p.prosecdef
UNION ALL
SELECT 'function', p.proname::text, 'is written in ' || l.lanname
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE n.nspname = $1 AND l.lanname <> 'sql'
UNION ALL
SELECT 'trigger', t.tgname::text, 'calls ' || fn.nspname || '.' || p.proname
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace fn ON fn.oid = p.pronamespace
WHERE n.nspname = $1 AND NOT t.tgisinternal AND fn.nspname NOT IN ('pg_catalog')
UNION ALL
SELECT 'constraint', o.conname::text, 'points outside the schema'
FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class f ON f.oid = o.confrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
WHERE n.nspname = $1 AND o.contype = 'f' AND fn.nspname <> $1
"""
