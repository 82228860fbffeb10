"""What the models of one manifest look like to each other: keys, tables and columns, before anything else is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from metacore.manifest import names
from metacore.manifest.columns import read_column
from metacore.manifest.model import Column, ColumnType
from metacore.manifest.walk import Node, refuse_repeats, shown

NUMERIC = frozenset({ColumnType.INT, ColumnType.BIGINT, ColumnType.DECIMAL})
ORDERED = NUMERIC | {ColumnType.DATE, ColumnType.TIMESTAMP}

MAX_COLUMNS = 1_500
"""A table of PostgreSQL holds 1600, and the kernel adds its own."""


@dataclass(slots=True)
class Outline:
    """One model's names and columns. `declared` pairs every column with its place; `types` has the kernel's, too.
    `numeric` columns can be computed with, `ordered` ones also compared."""

    node: Node
    key: str
    table: str
    declared: list[tuple[Node, Column]] = field(default_factory=list)
    kernel: list[Column] = field(default_factory=list)
    types: dict[str, ColumnType] = field(default_factory=dict)
    numeric: frozenset[str] = frozenset()
    ordered: frozenset[str] = frozenset()
    key_word: str = "key"
    table_word: str = "table"
    soft_delete: bool = False
    listed_only: bool = False

    @property
    def columns(self) -> dict[str, Column]:
        """The declared columns by name."""
        return {column.name: column for _, column in self.declared}

    def has(self, column: str) -> bool:
        """Whether the column exists, or may exist since the model's table is made by a migration."""
        return self.listed_only or column in self.types

    def need_column(self, node: Node, key: str, column: str) -> bool:
        """Report at `key` when this model has no such column."""
        if not column or self.has(column):
            return bool(column)
        node.refuse(key, f"{shown(column)} is not a column of {self.key or self.table}", "unknown_column")
        return False


class Scope:
    """The models of one manifest, found by key, by table, or with the addon's key or schema in front."""

    def __init__(self, addon_key: str, outlines: Iterable[Outline]) -> None:
        self.addon_key = addon_key
        self.outlines = list(outlines)
        self._by_name: dict[str, Outline] = {}
        for outline in self.outlines:
            self._by_name.setdefault(outline.key, outline)
            self._by_name.setdefault(outline.table, outline)

    def find(self, name: str) -> Outline | None:
        prefix, dot, rest = name.partition(".")
        if dot and prefix in (self.addon_key, f"addon_{self.addon_key}"):
            return self._by_name.get(rest)
        return self._by_name.get(name)

    def check_names(self) -> None:
        """Report models that answer to the same name: each is reachable by its key and by its table, and capabilities
        are written in lower case."""
        taken: dict[str, Outline] = {}
        for outline in self.outlines:
            for word, name in ((outline.key_word, outline.key), (outline.table_word, outline.table)):
                other = taken.setdefault(name.lower(), outline)
                if name and other is not outline:
                    outline.node.refuse(
                        word, f"{shown(name)} is a name of the model at {other.node.path} already", "duplicate"
                    )


def read_outline(node: Node, *, v3: bool) -> Outline:
    """Key, table and columns of one model."""
    key_word, table_word = ("key", "table") if v3 else ("model_key", "table_name")
    table = node.text(table_word, required=True, pattern=names.TABLE, form=names.TABLE_FORM)
    pattern, form = (names.PASCAL_KEY, names.PASCAL_KEY_FORM) if v3 else (names.MODEL_KEY, names.MODEL_KEY_FORM)
    key = node.text(key_word, "" if v3 else table, required=v3, pattern=pattern, form=form)
    outline = Outline(node, key, table, key_word=key_word, table_word=table_word)
    outline.listed_only = v3 and not node.has("columns")
    named: list[tuple[str, Node]] = []
    places = node.nodes("columns")
    if len(places) > MAX_COLUMNS:
        node.refuse("columns", f"holds more than {MAX_COLUMNS} columns", "too_large")
    for inner in places[:MAX_COLUMNS]:
        column = read_column(inner, v3=v3)
        named.append((column.name, inner))
        if column.name not in names.KERNEL_COLUMNS:
            outline.declared.append((inner, column))
            continue
        own = names.KERNEL_COLUMNS[column.name]
        if column.type is not own:
            inner.refuse("type", f"{shown(column.name)} is the kernel's own column, of type {own.value}", "reserved")
        outline.kernel.append(column)
    refuse_repeats(named, "name", "column")
    # Delete is soft where the model says so, and naming the column says so.
    outline.soft_delete = node.flag("soft_delete") or any(column.name == "deleted_at" for column in outline.kernel)
    outline.types = {
        name: kind for name, kind in names.KERNEL_COLUMNS.items() if name != "deleted_at" or outline.soft_delete
    }
    outline.types.update({column.name: column.type for _, column in outline.declared})
    outline.numeric = frozenset(name for name, kind in outline.types.items() if kind in NUMERIC)
    outline.ordered = frozenset(name for name, kind in outline.types.items() if kind in ORDERED)
    return outline
