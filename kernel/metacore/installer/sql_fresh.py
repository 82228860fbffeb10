"""What the migrations under judgement have made themselves, so that nothing that anybody stored is in it yet.

Filling a column that the same upgrade adds is the ordinary backfill; writing over one that was there before takes
values away from whoever stored them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class Fresh:
    """`before` are the columns of the tables that were there before, by table. `views` are all names that were a view's
    at any time, also of those that a CASCADE may or may not have taken along."""

    before: Mapping[str, frozenset[str]] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    columns: set[tuple[str, str]] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    views: set[str] = field(default_factory=set)

    def copy(self) -> Fresh:
        return Fresh(self.before, set(self.tables), set(self.columns), set(self.types), set(self.views))

    def table_made(self, name: str, known: Iterable[str], *, if_missing: bool) -> None:
        """With IF NOT EXISTS nothing is made where a relation of that name stands: one of `known` or some view."""
        if not if_missing or name not in {*known, *self.views, *self.before}:
            self.tables.add(name)

    def column_made(self, table: str, name: str, *, if_missing: bool) -> None:
        there = self.before.get(table)
        if not if_missing or (there is not None and name not in there):
            self.columns.add((table, name))

    def view_made(self, name: str) -> None:
        """Behind a view stand the columns of tables, under whatever names."""
        self.views.add(name)
        self.tables.discard(name)

    def table_renamed(self, old: str, new: str) -> None:
        if old in self.tables:
            self.tables.remove(old)
            self.tables.add(new)
        self.columns = {(new if table == old else table, name) for table, name in self.columns}

    def column_renamed(self, table: str, old: str, new: str) -> None:
        if (table, old) in self.columns:
            self.columns.remove((table, old))
            self.columns.add((table, new))

    def stored(self, table: str, columns: Iterable[str]) -> str:
        """Those of `columns` that may hold what somebody stored, as `table.column, …`; '' without any."""
        if table in self.tables:
            return ""
        kept = (name for name in dict.fromkeys(columns) if (table, name) not in self.columns)
        return ", ".join(f"{table}.{name}" for name in kept)
