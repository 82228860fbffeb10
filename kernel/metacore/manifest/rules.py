"""What the kernel computes and keeps true in a row: constraints, generated columns, formulas, sequences, seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from metacore.errors import InvalidInput
from metacore.manifest import names
from metacore.manifest.expressions import Comparison, Expression, Name, parse_expression
from metacore.manifest.handlers import need_export
from metacore.manifest.model import Backend, Column, ColumnType, Formula, Seed, Sequence
from metacore.manifest.scope import NUMERIC, Outline
from metacore.manifest.values import value_problem
from metacore.manifest.walk import Node, join, refuse_repeats, shown

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_SEQ = re.compile(r"\{seq(:0?[1-9]\d?)?\}")


def check_columns(model: Outline, sequences: tuple[Sequence, ...], sections: frozenset[str]) -> None:
    """Rules of columns that look at their siblings."""
    by_key = {sequence.key: sequence for sequence in sequences}
    computed = {item.name for _, item in model.declared if item.generated}
    for node, column in model.declared:
        for index, constraint in enumerate(column.constraints):
            _check_constraint(node, join(join(node.path, "constraints"), index), constraint.expr, model)
        if column.generated:
            found = _parse(node, "generated", column.generated, model, column.name)
            if found is not None and (others := sorted(found.columns & computed)):
                node.refuse("generated", f"{shown(others[0])} is a generated column itself", "generated")
            if column.type not in NUMERIC:
                node.refuse("generated", "only a number column can be generated", "type")
        if column.depends_on:
            model.need_column(node, "depends_on", column.depends_on)
        if column.visible_when is not None and column.visible_when.field:
            model.need_column(node, "visible_when", column.visible_when.field)
        if column.section and sections and column.section not in sections:
            node.refuse("section", f"{shown(column.section)} is not a section of form_layout", "unknown_section")
        if column.sequence:
            _check_sequence_column(node, column, by_key.get(column.sequence))


def read_formulas(model: Outline, backend: Backend | None) -> tuple[Formula, ...]:
    """The formulas in an order in which each finds what it needs computed already."""
    found: dict[str, tuple[Formula, frozenset[str], Node]] = {}
    handled: list[Formula] = []
    targets: set[str] = set()
    for node in model.node.nodes("formulas"):
        target = node.text("target", required=True)
        expr, handler = node.text("expr"), node.text("handler")
        tier = node.whole("tier", 3 if handler else 1, low=1, high=3)
        node.warn_unknown()
        if model.need_column(node, "target", target) and target in names.KERNEL_COLUMNS:
            node.refuse("target", f"{shown(target)} is the kernel's own column", "reserved")
        if target in targets:
            node.refuse("target", f"{shown(target)} has a formula already", "duplicate")
            continue
        targets.add(target)
        if tier == 3:
            if expr:
                node.refuse("expr", "is not allowed in tier 3, which has a handler", "formula")
            if not handler:
                node.refuse("handler", "is required in tier 3", "required")
            elif not handler.startswith("compiled:"):
                need_export(node, "handler", handler, backend)
            handled.append(Formula(target=target, tier=tier, handler=handler))
            continue
        if handler:
            node.refuse("handler", "is not allowed below tier 3", "formula")
        if not expr:
            node.refuse("expr", "is required", "required")
            continue
        if target in model.types and model.types[target] not in NUMERIC:
            node.refuse("target", f"{shown(target)} is no number column", "type")
        parsed = _parse(node, "expr", expr, model, target)
        columns = parsed.columns if parsed is not None else frozenset()
        found[target] = (Formula(target=target, expr=expr, tier=tier), columns, node)
    return (*_ordered(found), *handled)


def read_sequences(model: Outline) -> tuple[Sequence, ...]:
    found: list[Sequence] = []
    named: list[tuple[str, Node]] = []
    for node in model.node.nodes("sequences"):
        key = node.text("key", required=True, pattern=names.COLUMN, form=names.COLUMN_FORM)
        written = node.text("format", "{seq}", limit=200)
        if not _SEQ.search(written) or len(_PLACEHOLDER.findall(written)) != 1 or written.count("{") != 1:
            node.refuse("format", f"{shown(written)} must hold exactly one {{seq}} or {{seq:06}}", "format")
        found.append(Sequence(key=key, scope=_sequence_scope(node, model), format=written))
        named.append((key, node))
        node.warn_unknown()
    refuse_repeats(named, "key", "sequence")
    return tuple(found)


def read_seed(model: Outline, provided: frozenset[str]) -> Seed | None:
    """Rows that exist once per organization. `provided` are columns that the kernel fills by itself."""
    node = model.node.node("seed")
    if node is None:
        return None
    key = node.text("key", required=True)
    if model.need_column(node, "key", key) and key in names.KERNEL_COLUMNS:
        node.refuse("key", f"{shown(key)} is the kernel's own column; name a declared one", "reserved")
    columns = model.columns
    rows = node.nodes("rows")
    seen: dict[Any, str] = {}
    for row in rows:
        _check_row(row, columns, model, provided)
        mark = row.value.get(key)
        if mark is None or isinstance(mark, dict | list):
            row.refuse(key, "is required: it tells whether the row is there already", "required")
        elif (other := seen.setdefault(mark, row.path)) != row.path:
            row.refuse(key, f"{shown(mark)} is the key of {other} already", "duplicate")
    node.warn_unknown()
    return Seed(key=key, rows=tuple(dict(row.value) for row in rows))


def _check_row(row: Node, columns: Mapping[str, Column], model: Outline, provided: frozenset[str]) -> None:
    for name, value in row.value.items():
        column = columns.get(name)
        if column is None:
            if not model.listed_only:
                row.refuse(name, "is not a declared column", "unknown_column")
        elif column.generated:
            row.refuse(name, "is generated and cannot be given", "generated")
        elif value is not None and (problem := value_problem(value, column)):
            row.refuse(name, problem, "type")
    for name, column in columns.items():
        if column.required and column.default is None and row.value.get(name) is None and name not in provided:
            row.refuse(name, "is required", "required")


def _check_constraint(node: Node, path: str, expr: str, model: Outline) -> None:
    if not expr:
        return
    try:
        found = parse_expression(expr, model.ordered, comparison=True)
        if not found.columns <= model.numeric and not _two_columns(found):
            raise InvalidInput("a date can only be compared with another column, as it is", code="expression")
    except InvalidInput as error:
        node.report.refuse(join(path, "expr"), "expression", error.message)


def _two_columns(found: Expression) -> bool:
    root = found.root
    return isinstance(root, Comparison) and isinstance(root.left, Name) and isinstance(root.right, Name)


def _parse(node: Node, key: str, expr: str, model: Outline, target: str) -> Expression | None:
    try:
        found = parse_expression(expr, model.numeric, comparison=False)
    except InvalidInput as error:
        node.refuse(key, error.message, "expression")
        return None
    if target in found.columns:
        node.refuse(key, f"{shown(target)} cannot be computed from itself", "expression")
    return found


def _ordered(found: Mapping[str, tuple[Formula, frozenset[str], Node]]) -> list[Formula]:
    ordered: list[Formula] = []
    waiting = dict(found)
    while waiting:
        ready = [target for target, (_, columns, _) in waiting.items() if not (columns - {target}) & waiting.keys()]
        if not ready:
            for target, (_, _, node) in waiting.items():
                node.refuse("expr", f"{shown(target)} depends on itself through other formulas", "cycle")
            break
        ordered.extend(waiting.pop(target)[0] for target in ready)
    return ordered


def _sequence_scope(node: Node, model: Outline) -> str:
    scope = node.text("scope")
    if scope in ("", "org", "organization", "organization_id"):
        return ""
    if scope not in model.types and f"{scope}_id" in model.types:
        return f"{scope}_id"
    model.need_column(node, "scope", scope)
    return scope


def _check_sequence_column(node: Node, column: Column, sequence: Sequence | None) -> None:
    if sequence is None:
        node.refuse("sequence", f"{shown(column.sequence)} is not a sequence of this model", "unknown_sequence")
        return
    textual = column.type in (ColumnType.STRING, ColumnType.TEXT)
    counting = column.type in (ColumnType.INT, ColumnType.BIGINT) and sequence.format == "{seq}"
    if not textual and not counting:
        node.refuse("sequence", f"a {column.type.value} column cannot hold {shown(sequence.format)}", "type")
