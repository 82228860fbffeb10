"""Which indexes a model's table should have, and what is missing of them.

docs/performance.md tells why: every list is answered by `(organization_id, created_at desc, id desc)`, every declared
sort by `(organization_id, column, id)`, and a tenant's rows are found by their organization first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from metacore.db.catalog import StoredIndex
from metacore.db.rls import quoted
from metacore.installer.ddl import KERNEL_COLUMNS, Place
from metacore.installer.names import INDEX_PREFIX, index_name
from metacore.manifest.model import Column, ColumnType, ModelDefinition

LIVE = '"deleted_at" IS NULL'
MAX_INDEXED_SIZE = 500
"""Longer texts are not indexed for sorting: an entry of a btree must fit into about 2,700 bytes."""

METHOD_TYPES: Mapping[str, frozenset[ColumnType]] = {
    "btree": frozenset(ColumnType) - {ColumnType.JSONB},
    "hash": frozenset(ColumnType) - {ColumnType.JSONB},
    "gin": frozenset({ColumnType.JSONB}),
    "gist": frozenset(),
    "brin": frozenset(ColumnType) - {ColumnType.JSONB, ColumnType.BOOL},
}
"""What a method can index with the operator classes that PostgreSQL itself ships."""


@dataclass(frozen=True, slots=True)
class WantedIndex:
    """`columns` are names, with ` DESC` after those that fall; `where` is '' or a condition."""

    table: str
    columns: tuple[str, ...]
    unique: bool = False
    method: str = "btree"
    where: str = ""

    @property
    def plain_columns(self) -> tuple[str, ...]:
        return tuple(column.removesuffix(" DESC") for column in self.columns)

    @property
    def name(self) -> str:
        definition = f"{self.method}|{self.unique}|{self.columns}|{self.where}"
        return index_name(self.table, self.plain_columns, definition)

    def create(self, place: Place, *, concurrently: bool = False) -> str:
        unique = "UNIQUE " if self.unique else ""
        how = "CONCURRENTLY " if concurrently else ""
        using = f" USING {self.method}" if place.schema else ""
        columns = ", ".join(
            quoted(name) + (" DESC" if column.endswith(" DESC") else "")
            for name, column in zip(self.plain_columns, self.columns, strict=True)
        )
        where = f" WHERE {self.where}" if self.where else ""
        name = quoted(self.name)
        return f"CREATE {unique}INDEX {how}IF NOT EXISTS {name} ON {place.sql}{using} ({columns}){where}"


def drop_index(schema: str, name: str, *, concurrently: bool = False) -> str:
    how = "CONCURRENTLY " if concurrently else ""
    where = f"{quoted(schema)}." if schema else ""
    return f"DROP INDEX {how}IF EXISTS {where}{quoted(name)}"


def wanted_indexes(
    model: ModelDefinition, *, table: str, tenant: str, referenced: bool, pointing: Iterable[str]
) -> tuple[list[WantedIndex], list[str]]:
    """The indexes of a model's table, and why a declared one is left out.

    `tenant` is the column that holds the organization, or ''. `referenced` tells that foreign keys point at its id,
    `pointing` are its own columns that point at other tables.
    """
    wanted: dict[tuple[tuple[str, ...], bool], WantedIndex] = {}
    notes: list[str] = []
    live = LIVE if model.soft_delete else ""
    first = (tenant,) if tenant else ()

    def want(columns: tuple[str, ...], *, unique: bool = False, where: str = "", method: str = "btree") -> None:
        wanted.setdefault((columns, unique), WantedIndex(table, columns, unique, method, where))

    want((*first, "created_at DESC", "id DESC"), where=live)
    if tenant and referenced:
        want((*first, "id"), unique=True)
    unique = {column.name for column in model.columns if column.unique}
    for name in sorted(unique):
        want((*first, name), unique=True, where=live)
    for name in _sorted_by(model, pointing):
        if name not in unique:
            want((*first, name, "id"))
    for column in model.columns:
        if column.index and column.type is ColumnType.JSONB:
            want((column.name,), method="gin")
    for index in model.indices:
        problem = _unusable(model, index.method, index.columns)
        if problem:
            notes.append(f"index {index.name} is left out: {problem}")
        elif index.unique:
            want((*first, *(name for name in index.columns if name != tenant)), unique=True, where=live)
        elif index.method == "btree":
            want((*first, *(name for name in index.columns if name != tenant)))
        else:
            want(index.columns, method=index.method)
    if tenant and not any(index.plain_columns[0] == tenant and not index.where for index in wanted.values()):
        want(first)
    return list(wanted.values()), notes


def missing_indexes(
    wanted: Sequence[WantedIndex], stored: Mapping[str, StoredIndex]
) -> tuple[list[WantedIndex], list[str]]:
    """What to build, and the names of indexes of ours to drop first: invalid ones and those nobody wants any more.

    An index that a migration made serves as well when it begins with the same columns.
    """
    names = {index.name for index in wanted}
    stale = [
        name
        for name, index in stored.items()
        if name.startswith(INDEX_PREFIX) and (name not in names or not index.valid)
    ]
    valid = {name: index for name, index in stored.items() if index.valid}
    others = [index for name, index in valid.items() if not name.startswith(INDEX_PREFIX)]
    missing = [
        index for index in wanted if index.name not in valid and not any(_serves(other, index) for other in others)
    ]
    return missing, stale


def _serves(stored: StoredIndex, wanted: WantedIndex) -> bool:
    if stored.unique or wanted.unique or " WHERE " in stored.definition or not stored.definition:
        return False
    shown = stored.definition
    if f" USING {wanted.method} (" not in shown or stored.columns[: len(wanted.columns)] != wanted.plain_columns:
        return False
    falling = tuple(column.endswith(" DESC") for column in wanted.columns)
    return falling == tuple(f"{name} DESC" in shown for name in wanted.plain_columns) or len(falling) == 1


def _sorted_by(model: ModelDefinition, pointing: Iterable[str]) -> list[str]:
    """Columns that lists are sorted or looked up by, as far as a btree can hold them."""
    declared = {
        str(column.get("key"))
        for column in (model.table_metadata or {}).get("columns") or ()
        if isinstance(column, Mapping) and column.get("sortable") is True
    }
    pointed = set(pointing)
    return [
        column.name
        for column in model.columns
        if column.name in pointed or column.index or (column.name in declared and _short(column))
        if column.type is not ColumnType.JSONB and column.name not in KERNEL_COLUMNS
    ]


def _short(column: Column) -> bool:
    if column.type is ColumnType.TEXT:
        return False
    return column.type is not ColumnType.STRING or (column.size or 0) <= MAX_INDEXED_SIZE


def _unusable(model: ModelDefinition, method: str, columns: Sequence[str]) -> str:
    types = METHOD_TYPES[method]
    for name in columns:
        column = model.column(name)
        if column is not None and column.type not in types:
            return f"{method} cannot index the {column.type.value} column {name} without an extension"
    return "" if types else f"{method} needs an extension"
