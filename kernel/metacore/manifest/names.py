"""The words that a manifest may choose: keys, tables, columns, and the names that the kernel keeps for itself.

Every identifier fits PostgreSQL's 63 bytes, since the server would cut a longer one without an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from metacore.manifest.model import ColumnType

IDENTIFIER_BYTES = 63

ADDON_KEY = re.compile(r"[a-z][a-z0-9_]{1,47}")
ADDON_KEY_FORM = "must be 2 to 48 characters: a lower-case letter, then lower-case letters, digits and _"
TENANT_SUFFIX = re.compile(r".*_[0-9a-f]{8}")
TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
TABLE_FORM = "must be at most 63 characters: a lower-case letter, then lower-case letters, digits and _"
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
COLUMN_FORM = TABLE_FORM
MODEL_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
MODEL_KEY_FORM = "must be at most 63 characters: a letter, then letters, digits and _"
PASCAL_KEY = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
PASCAL_KEY_FORM = "must be PascalCase: a capital letter, then letters and digits, at most 63"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,126}")
NAME_FORM = "must start with a letter and hold only letters, digits and _ . : -"
EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
EVENT_FORM = "must be words joined by dots, such as ticket.created"
REFERENCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62}){0,2}")
REFERENCE_FORM = "must be a model key or a table, with the addon or schema in front where it is another one's"
EXPORT = re.compile(r"[A-Za-z_][A-Za-z0-9_.$-]{0,127}")
EXPORT_FORM = "must be the name of an exported function"
LOCALE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8})*")
LOCALE_FORM = "must be a locale such as en or es-MX"

KERNEL_COLUMNS: Mapping[str, ColumnType] = {
    "id": ColumnType.UUID,
    "organization_id": ColumnType.UUID,
    "created_by_id": ColumnType.UUID,
    "created_at": ColumnType.TIMESTAMP,
    "updated_at": ColumnType.TIMESTAMP,
    "deleted_at": ColumnType.TIMESTAMP,
}
"""Columns that the kernel makes and keeps itself. Declaring one describes it and makes no second one."""

SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Names that PostgreSQL refuses for a column."""
