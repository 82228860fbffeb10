"""Names that the installer gives: schemas, roles, tables, indexes, constraints."""

from __future__ import annotations

import hashlib
import uuid

from metacore.db.rls import quoted as quoted
from metacore.manifest.model import Isolation

MAX_BYTES = 63  # PostgreSQL cuts longer identifiers without an error.
HASH_DIGITS = 8
INDEX_PREFIX = "mx_"
"""Every index and constraint of the installer starts so; addons may not use it, so what starts so is ours to drop."""


def schema_name(key: str, isolation: Isolation, organization_id: uuid.UUID | None) -> str:
    """`addon_<key>`, or with a schema per tenant `addon_<key>_<first 8 hex digits of the organization>`."""
    if isolation is Isolation.SCHEMA_PER_TENANT:
        assert organization_id is not None
        return f"addon_{key}_{organization_id.hex[:8]}"
    return f"addon_{key}"


def role_name(database: str, key: str) -> str:
    """The role that an addon's migrations run as. Roles belong to a whole server, so the database is part of it."""
    return f"mca_{_database_mark(database)}_{key}"


def guest_role(database: str, key: str) -> str:
    """The role that an addon's guests run as in enforce: their own tables, and what was granted."""
    return f"mcg_{_database_mark(database)}_{key}"


def scratch_role(database: str, key: str) -> str:
    """The role that owns the copy of an addon's schema while its migrations are tried."""
    return f"mcr_{_database_mark(database)}_{key}"


def shadow_role(database: str, key: str) -> str:
    """The role that an addon's guests run as in shadow: `guest_role`, and every tenant-scoped table of any addon."""
    return f"mcs_{_database_mark(database)}_{key}"


def tables_role(database: str) -> str:
    """Holds the rights on every tenant-scoped addon table. Nobody runs as it; the shadow roles are members."""
    return f"mct_{_database_mark(database)}"


def _database_mark(database: str) -> str:
    return hashlib.sha256(database.encode()).hexdigest()[:8]


def sqlite_table(key: str, table: str) -> str:
    return f"addon_{key}__{table}"


def index_name(table: str, columns: tuple[str, ...], definition: str) -> str:
    """A readable name that changes with the definition, so that a changed index is built anew beside the old one."""
    digest = hashlib.sha256(definition.encode()).hexdigest()[:HASH_DIGITS]
    return f"{cut(f'{INDEX_PREFIX}{table}_' + '_'.join(columns), HASH_DIGITS + 1)}_{digest}"


def constraint_name(table: str, column: str, definition: str) -> str:
    return index_name(table, (column, "fk"), definition)


def cut(name: str, reserve: int = 0) -> str:
    """`name`, at most 63 bytes less `reserve` long. Identifiers of manifests are ASCII, so bytes are characters."""
    return name.encode()[: MAX_BYTES - reserve].decode(errors="ignore")
