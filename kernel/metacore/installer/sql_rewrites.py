"""Tells what SQL of an addon writes over: values that stood in columns before the migrations under judgement."""

from __future__ import annotations

from collections.abc import Iterable

from pglast import ast
from pglast.enums import CmdType, ConstrType, ObjectType, OnConflictAction

from metacore.installer.sql_functions import Functions
from metacore.installer.sql_names import Names, Tree, is_a

WRITING_ACTIONS = frozenset("cnd")
"""What ON UPDATE of a foreign key may do to the rows that point there: CASCADE, SET NULL, SET DEFAULT."""


class Rewrites(Functions):
    """Adds `rewrites`, each a few words about one thing that is written over."""

    def __init__(self, known: Names) -> None:
        super().__init__(known)
        self.rewrites: list[str] = []

    # What a function, a view or a default does that was there before stands nowhere in the migrations.

    def used(self, name: str) -> None:
        if name in self.known.writing:
            told = f"uses {name}, which changes rows by a function that was there before"
            if told not in self.rewrites:
                self.rewrites.append(told)

    def _body(self, node: Tree) -> None:
        super()._body(node)
        if not is_a(node, ast.SelectStmt):
            self.written_over(node.relation.relname, [str(target.name) for target in _overwritten(node)])

    def trigger(self, node: Tree) -> None:
        super().trigger(node)
        if node.funcname[-1].sval == "tsvector_update_trigger" and node.args:
            what = f"lets every change of {node.relation.relname} write over"
            self.written_over(node.relation.relname, [node.args[0].sval], what)

    def cascades(self, table: str, constraint: Tree) -> None:
        """A foreign key may carry an update of what it points at, even of a new table, into its own columns."""
        if constraint.contype == ConstrType.CONSTR_FOREIGN and constraint.fk_upd_action in WRITING_ACTIONS:
            columns = [part.sval for part in constraint.fk_attrs or ()]
            self.written_over(table, columns, f"lets updates of {constraint.pktable.relname} write over")

    def written_over(self, table: str, columns: Iterable[str], what: str = "writes over") -> None:
        stored = self.known.fresh.stored(table, columns)
        if stored:
            self.rewrites.append(f"{what} {stored}")

    def renamed(self, kind: ObjectType, old: str, node: Tree) -> None:
        """What is stored stays under a name that nobody asks for; a new table or column may take the old one."""
        fresh, new = self.known.fresh, node.newname
        self.used(old)
        if kind == ObjectType.OBJECT_COLUMN and old in self.known.tables:
            stored = fresh.stored(old, [node.subname])
            if stored:
                self.rewrites.append(f"renames column {stored} to {new}")
            fresh.column_renamed(old, node.subname, new)
        elif kind in (ObjectType.OBJECT_TABLE, ObjectType.OBJECT_VIEW):
            if old in self.known.tables and old not in fresh.tables:
                self.rewrites.append(f"renames table {old} to {new}")
            if old in self.known.views:
                fresh.view_made(new)
            fresh.table_renamed(old, new)
        elif old in fresh.types:
            fresh.types.remove(old)
            fresh.types.add(new)


def merge_clauses(node: Tree) -> tuple[Tree, ...]:
    return tuple(node.mergeWhenClauses or ()) if is_a(node, ast.MergeStmt) else ()


def _overwritten(node: Tree) -> tuple[Tree, ...]:
    """The columns of rows that are there which an UPDATE, a MERGE or an INSERT … ON CONFLICT gives another value."""
    if is_a(node, ast.UpdateStmt):
        return tuple(node.targetList)
    if is_a(node, ast.InsertStmt):
        clause = node.onConflictClause
        updates = clause is not None and clause.action == OnConflictAction.ONCONFLICT_UPDATE
        return tuple(clause.targetList) if updates else ()
    updating = (clause for clause in merge_clauses(node) if clause.commandType == CmdType.CMD_UPDATE)
    return tuple(target for clause in updating for target in clause.targetList)
