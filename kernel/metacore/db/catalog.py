"""What a database really holds: tables, columns, indexes and policies of one schema, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """`type` is PostgreSQL's own spelling (`format_type`): `character varying(255)`, `timestamp without time zone`."""

    name: str
    type: str
    nullable: bool = True
    default: str | None = None
    generated: bool = False


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """`definition` is PostgreSQL's own CREATE INDEX text; `valid` is false after a broken concurrent build."""

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
