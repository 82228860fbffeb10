"""How models point at each other: relations with their rollups, foreign keys, indices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from metacore.errors import InvalidInput
from metacore.manifest import names
from metacore.manifest.expressions import parse_expression
from metacore.manifest.model import ColumnType, ForeignKey, Index, Relation, Rollup
from metacore.manifest.scope import NUMERIC, Outline, Scope
from metacore.manifest.walk import Node, refuse_repeats, shown

RELATION_KINDS = ("one_to_many", "many_to_many", "belongs_to")
ROLLUP_FUNCTIONS = ("sum", "count", "avg", "min", "max")
INDEX_METHODS = ("btree", "hash", "gin", "gist", "brin")
ON_DELETE = {
    "no action": "no action",
    "no_action": "no action",
    "restrict": "restrict",
    "cascade": "cascade",
    "set null": "set null",
    "set_null": "set null",
}
_SPELLED = re.compile(r"(?P<table>[A-Za-z_][A-Za-z0-9_.]*)\s*(?:\(\s*(?P<column>[a-z_][a-z0-9_]*)\s*\))?")


def read_relations(model: Outline, scope: Scope) -> tuple[Relation, ...]:
    """The relations of a model. A target that is not in the manifest belongs to another addon or to the host."""
    found: list[Relation] = []
    named: list[tuple[str, Node]] = []
    for node in model.node.nodes("relations"):
        kind = node.text("kind", "one_to_many", required=True, choices=RELATION_KINDS)
        through = node.text("through", required=True, pattern=names.REFERENCE, form=names.REFERENCE_FORM)
        foreign_key = node.text("foreign_key", required=True, pattern=names.COLUMN, form=names.COLUMN_FORM)
        references = node.text("references", "id", pattern=names.COLUMN, form=names.COLUMN_FORM)
        pivot = node.text("pivot", pattern=names.REFERENCE, form=names.REFERENCE_FORM)
        target = scope.find(through)
        if kind == "many_to_many" and not pivot and not node.raw("pivot"):
            node.refuse("pivot", "is required for many_to_many: the table that joins the two", "required")
        if kind != "many_to_many" and pivot:
            node.refuse("pivot", "is not allowed: only many_to_many has a join table", "pivot")
        _check_foreign_key(node, kind, foreign_key, references, model, target, scope.find(pivot) if pivot else None)
        relation = Relation(
            name=node.text("name", required=True, pattern=names.NAME, form=names.NAME_FORM),
            kind=cast("Literal['one_to_many', 'many_to_many', 'belongs_to']", kind),
            through=through,
            foreign_key=foreign_key,
            references=references,
            pivot=pivot,
            embed=node.flag("embed"),
            readonly=node.flag("readonly"),
            scope=_scope(node, target),
            label=node.text("label"),
            rollups=_rollups(node, kind, model, target),
        )
        named.append((relation.name, node))
        found.append(relation)
        node.warn_unknown()
    refuse_repeats(named, "name", "relation")
    return tuple(found)


def _check_foreign_key(
    node: Node,
    kind: str,
    foreign_key: str,
    references: str,
    model: Outline,
    target: Outline | None,
    pivot: Outline | None,
) -> None:
    """The key is a column of the side that holds it: the model itself, the child, or the join table."""
    holder = {"belongs_to": model, "one_to_many": target, "many_to_many": pivot}[kind]
    pointed_at = target if kind == "belongs_to" else model
    if holder is not None:
        holder.need_column(node, "foreign_key", foreign_key)
    if pointed_at is not None:
        pointed_at.need_column(node, "references", references)


def _scope(node: Node, target: Outline | None) -> dict[str, Any]:
    if node.raw("scope") == "":
        return {}
    scope = node.free("scope")
    for column, value in scope.items():
        if not isinstance(value, str | int | float | bool | None):
            node.refuse("scope", f"{shown(column)} must be compared with a single value", "type")
        if target is not None:
            target.need_column(node, "scope", column)
    return scope


def _rollups(node: Node, kind: str, parent: Outline, child: Outline | None) -> tuple[Rollup, ...]:
    found: list[Rollup] = []
    inners = node.nodes("rollups")
    if inners and kind != "one_to_many":
        node.refuse("rollups", "is not allowed: only one_to_many has children to roll up", "rollup")
    for inner in inners:
        target = inner.text("target", required=True)
        function = inner.text("fn", "count", required=True, choices=ROLLUP_FUNCTIONS)
        source, expr = inner.text("from"), inner.text("expr")
        if parent.need_column(inner, "target", target) and target in names.KERNEL_COLUMNS:
            inner.refuse("target", f"{shown(target)} is the kernel's own column", "reserved")
        if source and expr:
            inner.refuse("expr", "is not allowed beside from", "rollup")
        elif function != "count" and not source and not expr:
            inner.refuse(None, f"{function} needs from or expr", "required")
        if child is not None:
            _check_source(inner, function, source, expr, child)
        if function in ("count", "sum", "avg") and parent.types.get(target, ColumnType.INT) not in NUMERIC:
            inner.refuse("target", f"{shown(target)} must be a number column to hold a {function}", "type")
        found.append(
            Rollup(
                target=target,
                fn=cast("Literal['sum', 'count', 'avg', 'min', 'max']", function),
                source=source,
                expr=expr,
            )
        )
        inner.warn_unknown()
    return tuple(found)


def _check_source(inner: Node, function: str, source: str, expr: str, child: Outline) -> None:
    known = source and child.need_column(inner, "from", source)
    if known and function in ("sum", "avg") and child.types.get(source, ColumnType.INT) not in NUMERIC:
        inner.refuse("from", f"{shown(source)} is no number column", "type")
    if expr and not child.listed_only:
        try:
            parse_expression(expr, child.numeric, comparison=False)
        except InvalidInput as error:
            inner.refuse("expr", error.message, "expression")


def read_indices(model: Outline, taken: dict[str, str]) -> tuple[Index, ...]:
    """The indices of a model. `taken` holds relation names of the whole schema, where tables and indices share one
    space, with the place that took each; new names are added."""
    found: list[Index] = []
    for node in model.node.nodes("indices"):
        name = node.text("name", required=True, pattern=names.TABLE, form=names.TABLE_FORM)
        if name and (other := taken.setdefault(name, node.path)) != node.path:
            node.refuse("name", f"{shown(name)} is taken already, by {other}", "duplicate")
        columns = node.texts("columns")
        if not columns:
            node.refuse("columns", "needs at least one column", "required")
        if len(set(columns)) != len(columns):
            node.refuse("columns", "names a column twice", "duplicate")
        for column in columns:
            model.need_column(node, "columns", column)
        method = node.text("method", "btree", choices=INDEX_METHODS)
        unique = node.flag("unique")
        if unique and method != "btree":
            node.refuse("unique", f"is not allowed: only a btree can be unique, not a {method}", "index")
        if method == "hash" and len(columns) > 1:
            node.refuse("columns", "a hash index has one column", "index")
        found.append(
            Index(
                name=name,
                columns=columns,
                unique=unique,
                method=cast("Literal['btree', 'hash', 'gin', 'gist', 'brin']", method),
            )
        )
        node.warn_unknown()
    return tuple(found)


def read_foreign_keys(model: Outline, scope: Scope) -> tuple[ForeignKey, ...]:
    """Foreign keys: `{columns, references{model, columns}, policy, on_delete}`, or short `{column, references
    "table(column)", on_delete}`; one column each."""
    found: list[ForeignKey] = []
    required = {item.name for _, item in model.declared if item.required}
    for node in model.node.nodes("foreign_keys"):
        column = _single(node, "columns", "column")
        reference = node.raw("references")
        if isinstance(reference, Mapping):
            inner = cast("Node", node.node("references"))
            target = inner.text("model") or inner.text("table")
            if not target:
                inner.refuse("model", "is required", "required")
            target_column = _single(inner, "columns", "column", "id")
        else:
            spelled = _SPELLED.fullmatch(node.text("references") or node.text("table") or node.text("references_table"))
            target, target_column = "", node.text("references_column", "id")
            if spelled is None:
                node.refuse("references", "must name a model or table, such as customers(id)", "required")
            else:
                target, target_column = spelled["table"], spelled["column"] or target_column
        physical = node.text("policy", "physical", choices=("physical", "logical")) == "physical"
        on_delete = ON_DELETE[node.text("on_delete", "no action", choices=ON_DELETE).lower()]
        model.need_column(node, "columns" if node.has("columns") else "column", column)
        table, addon = _resolve(node, target, target_column, scope, physical)
        if on_delete == "set null" and column in required:
            node.refuse("on_delete", f"set null cannot be: {shown(column)} is required", "on_delete")
        found.append(
            ForeignKey(
                column=column,
                references_table=table,
                references_column=target_column,
                on_delete=cast("Literal['no action', 'restrict', 'cascade', 'set null']", on_delete),
                references_addon=addon,
                physical=physical,
            )
        )
        node.warn_unknown()
    return tuple(found)


def _single(node: Node, many: str, one: str, default: str = "") -> str:
    if not node.has(many):
        return node.text(one, default, required=not default, pattern=names.COLUMN, form=names.COLUMN_FORM)
    columns = node.texts(many, pattern=names.COLUMN, form=names.COLUMN_FORM)
    if len(columns) != 1:
        node.refuse(many, f"must name exactly one column, not {len(columns)}", "columns")
    return columns[0] if columns else default


def _resolve(node: Node, target: str, column: str, scope: Scope, physical: bool) -> tuple[str, str]:
    """Table and addon of the target; the addon is '' for a table of this one."""
    known = scope.find(target)
    if known is not None:
        known.need_column(node, "references", column)
        return known.table, ""
    addon, dot, rest = target.rpartition(".")
    if not dot:
        if target:
            node.refuse("references", f"{shown(target)} is not a model of this addon", "unknown_model")
        return target, ""
    if physical:
        node.refuse("policy", "must be logical: a database constraint cannot reach into another addon", "foreign_key")
    return rest, addon.removeprefix("addon_")
