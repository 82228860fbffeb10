"""Making, granting and dropping the roles that guests run as.

Every change is found by comparing what the catalogs say with what `guest_grants` wants, so a run that was killed, an
older version, or somebody's REVOKE is mended by the next one. One installation looks at its own schemas for every role,
and at its own role for every schema; what other addons have among themselves is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg
import orjson

from metacore.capabilities.grants import Grants
from metacore.db.catalog import PostgresConnection
from metacore.db.grants import GUEST_COLUMNS
from metacore.db.rls import TENANT_POLICY, quoted
from metacore.installer import names
from metacore.installer.guest_grants import (
    KERNEL_SCHEMA,
    NOTHING,
    GuestRelation,
    GuestRole,
    RelationKind,
    Rights,
    Secrets,
    change,
    readable_columns,
    schema_change,
    wanted,
)
from metacore.manifest.model import Capability, Manifest

LOCK = "metacore guests"
"""What is hashed to the advisory lock of these roles. It is taken before the registry's row, never after."""
MEMBERSHIP_OPTIONS_SINCE = 160000


@dataclass(frozen=True, slots=True)
class Need:
    """What one addon needs. `installed` tells whether anybody has it, `runs` whether it has code that runs here: then
    it has roles of its own. `secrets` is None where its manifest is not at hand: what is hidden stays hidden."""

    key: str
    installed: bool = False
    runs: bool = False
    secrets: Secrets | None = None


def need_of(manifest: Manifest) -> Need:
    return Need(
        manifest.key,
        installed=True,
        runs=manifest.backend is not None and manifest.backend.runtime == "wasm",
        secrets={
            model.table: frozenset(column.name for column in model.columns if column.secret)
            for model in manifest.models
        },
    )


async def sync(driver: PostgresConnection, need: Need, kernel_role: str) -> None:
    """Bring roles and rights up to date, inside the caller's transaction."""
    await lock(driver)
    for statement in await pending(driver, need, kernel_role):
        await driver.execute(statement)


async def lock(driver: PostgresConnection) -> None:
    """One at a time: the rights of all addons' roles stand in the same rows of the catalogs."""
    await driver.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", LOCK)


async def pending(driver: PostgresConnection, need: Need, kernel_role: str) -> tuple[str, ...]:
    """The statements that `sync` would run now; none where the owner may not make roles."""
    facts = await driver.fetchrow(SERVER, kernel_role)
    assert facts is not None
    if not facts["makes_roles"]:
        return ()
    plan = _Plan(driver, need, facts)
    return tuple(await plan.statements())


@dataclass
class _Plan:
    driver: PostgresConnection
    need: Need
    facts: asyncpg.Record
    existing: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        database = self.facts["database"]
        self.tables = names.tables_role(database)
        self.guest = names.guest_role(database, self.need.key)
        self.shadow = names.shadow_role(database, self.need.key)
        self.guest_prefix = names.guest_role(database, "")

    async def statements(self) -> list[str]:
        found = await self.driver.fetch(ROLES, self.tables, f"{self.guest_prefix}%", self.guest, self.shadow)
        self.existing = frozenset(row["name"] for row in found)
        needed = ({self.tables} if self.need.installed else set()) | (
            {self.guest, self.shadow} if self.need.runs else set()
        )
        made = [f"CREATE ROLE {quoted(name)} NOLOGIN" for name in sorted(needed - self.existing)]
        members = await self._memberships() if self.need.runs else []
        rights = await self._rights(needed)
        gone = [] if self.need.runs else await self._gone()
        return [*made, *members, *rights, *gone]

    async def _memberships(self) -> list[str]:
        """The kernel may become the addon's two roles, without having their rights by itself."""
        kernel = self.facts["kernel_role"]
        options = self.facts["version"] >= MEMBERSHIP_OPTIONS_SINCE
        become = " WITH INHERIT FALSE, SET TRUE" if options else ""
        inherit = " WITH INHERIT TRUE, SET FALSE" if options else ""
        rows = await self.driver.fetch(
            MEMBERS_WITH_OPTIONS if options else MEMBERS, [self.guest, self.shadow, self.tables]
        )
        held = {(row["role"], row["member"]): row for row in rows}
        statements = []
        for role, member, option, words in (
            (self.guest, kernel, "becomes", become),
            (self.shadow, kernel, "becomes", become),
            (self.guest, self.shadow, "inherits", inherit),
            (self.tables, self.shadow, "inherits", inherit),
        ):
            row = held.get((role, member))
            if row is None or not row[option]:
                statements.append(f"GRANT {quoted(role)} TO {quoted(member)}{words}")
        return statements

    async def _rights(self, needed: set[str]) -> list[str]:
        grants = await self._grants()
        relations = await self._relations(grants)
        held_schemas = {
            (row["schema"], row["role"]) for row in await self.driver.fetch(SCHEMA_RIGHTS, sorted(self.existing))
        }
        roles = [GuestRole(self.tables, "", Grants(""))] if self.tables in self.existing | needed else []
        roles += [GuestRole(f"{self.guest_prefix}{key}", key, grants[key]) for key in sorted(grants)]
        schemas = {relation.schema: relation.addon_key for relation in relations} | {KERNEL_SCHEMA: ""}
        schemas |= {row["name"]: self.need.key for row in await self.driver.fetch(OWN_SCHEMAS, self.need.key)}
        statements: list[str] = []
        for role in roles:
            mine = role.name == self.guest
            leaves = mine and not self.need.runs
            uses: set[str] = set()
            if mine and self.need.runs:
                uses.update(schema for schema, key in schemas.items() if key == self.need.key)
                uses.update([KERNEL_SCHEMA] if self.facts["extensions"] else [])
            changes: list[str] = []
            for relation in relations:
                if not mine and relation.addon_key != self.need.key:
                    continue
                secrets = self.need.secrets if relation.addon_key == self.need.key else None
                rights = NOTHING if leaves else wanted(role, relation, readable_columns(relation, secrets, self.tables))
                if rights:
                    uses.add(relation.schema)
                changes += change(role.name, relation, rights)
            for schema, key in sorted(schemas.items()):
                if mine or (key == self.need.key and key):
                    held = (schema, role.name) in held_schemas
                    changes += schema_change(role.name, schema, held=held, needed=schema in uses)
            statements += changes
        return statements

    async def _grants(self) -> dict[str, Grants]:
        """What every addon that has a role, and this one, was granted."""
        keys = {name.removeprefix(self.guest_prefix) for name in self.existing if name.startswith(self.guest_prefix)}
        if self.need.runs:
            keys.add(self.need.key)
        rows = {row["key"]: row["grants"] for row in await self.driver.fetch(GRANTS, sorted(keys))}
        return {
            key: Grants(key, [Capability.model_validate(item) for item in orjson.loads(rows.get(key) or "[]")])
            for key in keys
        }

    async def _relations(self, grants: Mapping[str, Grants]) -> list[GuestRelation]:
        """This addon's relations, those that it was granted or has a right on, and the kernel's that may be shown."""
        rows = await self.driver.fetch(
            RELATIONS, self.need.key, self.need.key in grants, TENANT_POLICY, sorted(GUEST_COLUMNS), self.guest
        )
        held: dict[tuple[str, str], dict[str, Rights]] = {}
        roles = [*self.existing]
        for right in await self.driver.fetch(RIGHTS, [row["oid"] for row in rows], roles):
            known = held.setdefault((right["schema"], right["name"]), {}).get(right["role"], NOTHING)
            if right["columns"] is None:
                known = Rights(known.whole | {right["privilege"]}, known.columns)
            else:
                known = Rights(known.whole, {**known.columns, right["privilege"]: frozenset(right["columns"])})
            held[right["schema"], right["name"]][right["role"]] = known
        return [
            GuestRelation(
                schema=row["schema"],
                name=row["name"],
                kind=RelationKind(row["kind"]),
                addon_key=row["addon_key"],
                tenant=row["tenant"],
                columns=tuple(row["columns"]),
                held=held.get((row["schema"], row["name"]), {}),
            )
            for row in rows
        ]

    async def _gone(self) -> list[str]:
        """Nobody runs as these any more. What another database of this server still names stays, without rights."""
        statements = []
        for role in (self.shadow, self.guest):
            if role not in self.existing:
                continue
            if await self.driver.fetchval(USED_ELSEWHERE, role):
                kernel = self.facts["kernel_role"]
                if await self.driver.fetchval(IS_MEMBER, kernel, role):
                    statements.append(f"REVOKE {quoted(role)} FROM {quoted(kernel)}")
            else:
                statements.append(f"DROP ROLE {quoted(role)}")
        return statements


SERVER = """
SELECT current_setting('server_version_num')::int AS version, current_database()::text AS database,
  r.rolsuper OR r.rolcreaterole AS makes_roles,
  coalesce((SELECT k.rolname FROM pg_roles k WHERE k.rolname = $1), r.rolname)::text AS kernel_role,
  EXISTS (SELECT FROM pg_extension WHERE extnamespace = 'public'::regnamespace) AS extensions
FROM pg_roles r WHERE r.rolname = current_user
"""

ROLES = """
SELECT rolname::text AS name FROM pg_roles
WHERE rolname = ANY (ARRAY[$1::text, $3, $4]) OR rolname LIKE replace($2, '_', '\\_')
"""

MEMBERS = """
SELECT pg_get_userbyid(roleid)::text AS role, pg_get_userbyid(member)::text AS member,
  true AS becomes, true AS inherits
FROM pg_auth_members WHERE pg_get_userbyid(roleid) = ANY ($1::text[])
"""

MEMBERS_WITH_OPTIONS = """
SELECT pg_get_userbyid(roleid)::text AS role, pg_get_userbyid(member)::text AS member,
  bool_or(set_option) AS becomes, bool_or(inherit_option) AS inherits
FROM pg_auth_members WHERE pg_get_userbyid(roleid) = ANY ($1::text[]) GROUP BY roleid, member
"""

IS_MEMBER = "SELECT EXISTS (SELECT FROM pg_auth_members WHERE member = $1::regrole AND roleid = $2::regrole)"

USED_ELSEWHERE = """
SELECT EXISTS (
  SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1::regrole
    AND d.dbid NOT IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
)
"""

GRANTS = "SELECT key, grants::text AS grants FROM public.metacore_addons WHERE key = ANY ($1::text[])"

OWN_SCHEMAS = """
SELECT s.name FROM public.metacore_schemas s JOIN pg_namespace n ON n.nspname = s.name WHERE s.addon_key = $1
"""

SCHEMA_RIGHTS = """
SELECT n.nspname::text AS schema, pg_get_userbyid(a.grantee)::text AS role
FROM pg_namespace n, LATERAL aclexplode(n.nspacl) AS a
WHERE a.privilege_type = 'USAGE' AND pg_get_userbyid(a.grantee) = ANY ($1::text[])
"""

RELATIONS = """
WITH mine AS (
  SELECT d.objid FROM pg_shdepend d
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_authid'::regclass
    AND d.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $5)
    AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
),
granted AS (
  SELECT DISTINCT split_part(g.item ->> 'target', '.', 1) AS schema
  FROM public.metacore_addons a, LATERAL jsonb_array_elements(a.grants::jsonb) AS g (item)
  WHERE $2 AND a.key = $1 AND g.item ->> 'kind' LIKE 'db:%'
)
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, coalesce(s.addon_key, '') AS addon_key,
  CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind,
  c.relrowsecurity AND c.relforcerowsecurity
    AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = $3) AS tenant,
  ARRAY(
    SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
  ) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN public.metacore_schemas s ON s.name = n.nspname
WHERE c.relkind IN ('r', 'p', 'v', 'S') AND (
  s.addon_key = $1 OR c.oid IN (SELECT objid FROM mine)
  OR (s.name IS NOT NULL AND 'addon_' || s.addon_key IN (SELECT schema FROM granted))
  OR (n.nspname = 'public' AND c.relname = ANY ($4::text[]))
)
ORDER BY n.nspname, c.relname
"""

RIGHTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(a.grantee)::text AS role,
  a.privilege_type AS privilege, NULL::text[] AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL aclexplode(c.relacl) AS a
WHERE c.oid = ANY ($1::oid[]) AND pg_get_userbyid(a.grantee) = ANY ($2::text[])
UNION ALL
SELECT n.nspname::text, c.relname::text, pg_get_userbyid(a.grantee)::text, a.privilege_type,
  array_agg(t.attname::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute t ON t.attrelid = c.oid,
  LATERAL aclexplode(t.attacl) AS a
WHERE c.oid = ANY ($1::oid[]) AND NOT t.attisdropped AND pg_get_userbyid(a.grantee) = ANY ($2::text[])
GROUP BY 1, 2, 3, 4
"""
