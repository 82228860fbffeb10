"""Names in an addon's SQL: which ones the addon made itself, and how a name is read off the parse tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pglast import ast

from metacore.installer.sql_fresh import Fresh
from metacore.orm.tables import metadata

Tree: TypeAlias = Any
"""A node of the parse tree. pglast types every attribute as optional; which ones are there is the grammar's promise."""

KEPT_COLUMNS = frozenset({"id", "organization_id"})
"""Columns that hold a row's identity and its tenant: a migration may make them, never drop, rename or retype them."""

KERNEL_TABLES = frozenset(metadata.tables)
RESERVED_PREFIXES = ("pg_", "metacore_", "mx_")
MAX_NAME_BYTES = 63


class NotAllowed(Exception):
    """Internal to the judgement; `location` is a character offset into the statement, or None."""

    def __init__(self, reason: str, location: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.location = location


def is_a(value: Tree, kind: type) -> bool:
    """`isinstance`, without telling the type checker that every attribute may be missing now."""
    return isinstance(value, kind)


@dataclass
class Names:
    """What the addon's schema holds at a point of its migrations.

    `reserved` are relation names that no addon may use (the kernel's tables); `taken_functions` the functions that
    already exist outside the schema, whose names an addon's own function may not share. `fresh` is what the migrations
    under judgement made themselves; `writing` are the functions that change rows and were there before, and whatever
    calls them: other functions, views, tables by a default or a check, types by theirs.
    """

    tables: set[str] = field(default_factory=set)
    views: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    reserved: frozenset[str] = KERNEL_TABLES
    taken_functions: frozenset[str] = frozenset()
    fresh: Fresh = field(default_factory=Fresh)
    writing: frozenset[str] = frozenset()

    def copy(self) -> Names:
        return Names(
            set(self.tables),
            set(self.views),
            set(self.types),
            set(self.functions),
            self.reserved,
            self.taken_functions,
            self.fresh.copy(),
            self.writing,
        )


def plain_name(node: Tree) -> str:
    if node.schemaname is not None or node.catalogname is not None:
        shown = ".".join(part for part in (node.catalogname, node.schemaname, node.relname) if part)
        raise NotAllowed(f"{shown!r} is qualified; only unqualified names are allowed", node.location)
    return str(node.relname)


def one_part(names: Tree, what: str) -> str:
    if len(names) != 1:
        raise NotAllowed(
            f"{what} {'.'.join(part.sval for part in names)!r} is qualified; only unqualified names are allowed"
        )
    return str(names[0].sval)


def type_parts(node: Tree) -> list[str]:
    return [part.sval for part in node.names]


def object_name(target: Tree) -> list[str]:
    """The parts of a name as DROP and COMMENT carry it: strings, a type, or a function with its arguments."""
    if is_a(target, ast.TypeName):
        return type_parts(target)
    if is_a(target, ast.ObjectWithArgs):
        return [part.sval for part in target.objname]
    if isinstance(target, tuple):
        return [name for part in target for name in (type_parts(part) if is_a(part, ast.TypeName) else [part.sval])]
    return [str(getattr(target, "sval", target))]
