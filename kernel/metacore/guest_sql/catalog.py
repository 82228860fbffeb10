"""What the judge must know of this database: the addons' schemas, what is in them, and which columns are secret."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from metacore.db.database import Database
from metacore.db.grants import GUEST_COLUMNS
from metacore.guest_sql.judgement import OwnNames, Relation
from metacore.installer import names
from metacore.manifest.model import Isolation
from metacore.orm.tables import metadata
from metacore.registry import LiveAddon, Registry

MOST_SCHEMAS = 4096
"""How many schemas are remembered; a tenant's own counts by itself."""


@dataclass(frozen=True, slots=True)
class _Known:
    revision: int
    names: OwnNames


class Catalog:
    """Reads a schema's names once per revision of the registry."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry
        self._known: dict[str, _Known] = {}
        self._secrets: dict[str, tuple[str, Mapping[str, frozenset[str]]]] = {}
        self._name = ""

    async def database_name(self) -> str:
        if not self._name:
            self._name = await self._database.postgres.fetchval("SELECT current_database()::text")
        return self._name

    def addon(self, key: str) -> LiveAddon | None:
        """The addon as it is served, None where it is not."""
        addon = self._registry.snapshot.addons.get(key)
        return addon if addon is not None and not addon.error and not addon.fenced_reason else None

    def physical_schema(self, schema: str, organization_id: uuid.UUID) -> str:
        """Where the tables of `addon_<key>` are for this organization; '' when there is no such addon."""
        addon = self._registry.snapshot.addons.get(schema.removeprefix("addon_"))
        if addon is None or not schema.startswith("addon_"):
            return ""
        return names.schema_name(addon.key, addon.manifest.isolation, organization_id)

    async def own_names(self, addon: LiveAddon, organization_id: uuid.UUID) -> OwnNames:
        schema = names.schema_name(addon.key, addon.manifest.isolation, organization_id)
        revision = self._registry.snapshot.revision
        known = self._known.get(schema)
        if known is not None and known.revision == revision:
            return known.names
        rows = await self._database.postgres.fetch(OBJECTS, schema)
        found: dict[str, set[str]] = {"table": set(), "view": set(), "type": set(), "function": set()}
        for row in rows:
            found[row["kind"]].add(row["name"])
        own = OwnNames(
            names.schema_name(addon.key, Isolation.SHARED, None),
            tables=frozenset(found["table"]),
            views=frozenset(found["view"]),
            types=frozenset(found["type"]),
            functions=frozenset(found["function"]),
        )
        if known is not None and known.names == own:
            own = known.names  # What was judged with them still holds.
        if len(self._known) >= MOST_SCHEMAS:
            self._known.clear()
        self._known[schema] = _Known(revision, own)
        return own

    def secrets(self, relation: Relation) -> frozenset[str]:
        """Columns that no guest ever sees, whoever granted what."""
        if relation.of_kernel:
            shown = GUEST_COLUMNS.get(relation.table)
            # Of other tables not even the names of columns are told.
            return frozenset(metadata.tables[relation.table].columns.keys()).difference(shown) if shown else frozenset()
        addon = self._registry.snapshot.addons.get(relation.schema.removeprefix("addon_"))
        if addon is None:
            return frozenset()
        known = self._secrets.get(addon.key)
        if known is None or known[0] != addon.digest:
            known = self._secrets[addon.key] = (addon.digest, secret_columns(addon))
        return known[1].get(relation.table, frozenset())


def secret_columns(addon: LiveAddon) -> Mapping[str, frozenset[str]]:
    """By table, the columns that are never shown."""
    return {
        model.table: secret
        for model in addon.manifest.models
        if (secret := frozenset(column.name for column in model.columns if column.secret))
    }


OBJECTS = """
SELECT CASE WHEN c.relkind = 'v' THEN 'view' ELSE 'table' END AS kind, c.relname::text AS name
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v')
UNION ALL SELECT 'type', t.typname::text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE n.nspname = $1 AND (t.typtype IN ('e', 'd') OR c.relkind = 'c')
UNION ALL SELECT 'function', p.proname::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1
"""
