"""Column types: how a declared type is stored, and whether a column that is there already can hold it."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import asyncpg as postgresql
from sqlalchemy.engine import Dialect

from metacore.manifest.model import Column, ColumnType
from metacore.orm.base import UtcDateTime

DEFAULT_SIZE = 255

POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
SQLITE: Dialect = sqlite.dialect()

_PLAIN = {
    ColumnType.TEXT: "text",
    ColumnType.UUID: "uuid",
    ColumnType.INT: "integer",
    ColumnType.BIGINT: "bigint",
    ColumnType.DECIMAL: "numeric(18,4)",
    ColumnType.BOOL: "boolean",
    ColumnType.TIMESTAMP: "timestamp with time zone",
    ColumnType.DATE: "date",
    ColumnType.JSONB: "jsonb",
}

_FAMILIES = {
    "text": "text",
    "character varying": "text",
    "character": "text",
    "citext": "text",
    "name": "text",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "decimal",
    "real": "decimal",
    "double precision": "decimal",
    "money": "decimal",
    "boolean": "boolean",
    "uuid": "uuid",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamp",
    "json": "json",
    "jsonb": "json",
}
_INTEGERS = ("smallint", "integer", "bigint")
_SIZE = re.compile(r"\((\d+)\)")


class Fit(Enum):
    """What to do with a stored column for a declared one: nothing, make it wider, or give up."""

    KEEP = "keep"
    WIDEN = "widen"
    REFUSE = "refuse"


def spelled(column: Column) -> str:
    """The type of a declared column as PostgreSQL's `format_type` writes it."""
    if column.type is ColumnType.STRING:
        return f"character varying({column.size or DEFAULT_SIZE})"
    return _PLAIN[column.type]


def fit(stored: str, column: Column) -> Fit:
    """Whether a stored type holds what `column` declares.

    Tables of migrations have types of their own (`text` for a string, `timestamp` without zone, `json`): the same
    family is kept as it is. Only what loses nothing is changed: a wider varchar, or text, and a wider integer.
    Types that nobody here knows (an enum, a domain) hold texts, and the database checks them.
    """
    wanted = spelled(column)
    if stored in (wanted, ""):
        return Fit.KEEP
    stored_family, wanted_family = _family(stored), _family(wanted)
    if stored_family == "other":
        return Fit.KEEP if wanted_family == "text" and "[" not in stored else Fit.REFUSE
    if stored_family == "integer" and wanted_family == "decimal":
        return Fit.REFUSE
    if stored_family != wanted_family:
        return Fit.REFUSE
    if stored_family == "text" and stored.startswith("character varying("):
        have, want = _size(stored), _size(wanted)
        return Fit.WIDEN if have is not None and (want is None or want > have) else Fit.KEEP
    if stored_family == "integer":
        return Fit.WIDEN if _INTEGERS.index(stored) < _INTEGERS.index(wanted) else Fit.KEEP
    return Fit.KEEP


def sqlalchemy_type(column: Column) -> sa.types.TypeEngine[Any]:
    """The type for both dialects; on SQLite uuid, time and JSON are what the kernel's own tables use there."""
    match column.type:
        case ColumnType.STRING:
            return sa.String(column.size or DEFAULT_SIZE)
        case ColumnType.TEXT:
            return sa.Text()
        case ColumnType.UUID:
            return sa.Uuid(as_uuid=True)
        case ColumnType.INT:
            return sa.Integer()
        case ColumnType.BIGINT:
            return sa.BigInteger()
        case ColumnType.DECIMAL:
            return sa.Numeric(18, 4)
        case ColumnType.BOOL:
            return sa.Boolean()
        case ColumnType.TIMESTAMP:
            return UtcDateTime()
        case ColumnType.DATE:
            return sa.Date()
        case ColumnType.JSONB:
            return sa.JSON().with_variant(JSONB(), "postgresql")


def _family(type_name: str) -> str:
    base = re.sub(r"\(\d+(,\d+)?\)", "", type_name)
    return _FAMILIES.get(" ".join(base.split()), "other")


def _size(type_name: str) -> int | None:
    found = _SIZE.search(type_name)
    return int(found[1]) if found else None
