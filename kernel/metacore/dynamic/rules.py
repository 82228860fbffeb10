"""What is checked at a save of a model, worked out once from its declaration and its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metacore.dynamic.shape import ColumnShape, Kind, ModelShape
from metacore.dynamic.values import BadValue, read_value
from metacore.manifest.expressions import Expression, parse_expression
from metacore.manifest.model import VisibleWhen

ORGANIZATION_PREFIX = "$org."
CHOOSING_WIDGETS = frozenset({"select", "multi_select"})


@dataclass(frozen=True, slots=True)
class Limits:
    """`validator` names a custom one. `message` replaces the usual words when a limit is broken."""

    regex: str = ""
    minimum: float | None = None
    maximum: float | None = None
    validator: str = ""
    message: str = ""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ColumnRules:
    """`options` are the values that may be chosen, None when any may. `limited` tells whether there are `limits`."""

    column: ColumnShape
    required: bool
    has_default: bool
    default: Any = None
    limits: Limits = NO_LIMITS
    options: frozenset[Any] | None = None
    visible_when: VisibleWhen | None = None
    limited: bool = False


@dataclass(frozen=True, slots=True)
class ConstraintRule:
    field: str
    code: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that is checked at a save of one model.

    `inputs` are columns that formulas, constraints and stages read: a save that sets one needs the others' values.
    `moved` are those that moves of the stage set. `organization_columns` are those that an organization's own
    validators check, `zeros` sums and counts of children, which a new row has none of.
    """

    columns: Mapping[str, ColumnRules]
    required: tuple[ColumnRules, ...]
    formulas: tuple[tuple[ColumnShape, Expression], ...] = ()
    constraints: tuple[ConstraintRule, ...] = ()
    inputs: frozenset[str] = frozenset()
    stage_field: str = ""
    moved: frozenset[str] = frozenset()
    organization_columns: frozenset[str] = frozenset()
    zeros: frozenset[str] = frozenset()


def rules_of(shape: ModelShape) -> Rules:
    """The rules of a model, worked out once."""
    rules: Rules | None = shape.recall("rules")
    return rules if rules is not None else shape.remember("rules", _derive(shape))


def needs_current(rules: Rules, names: Mapping[str, Any]) -> bool:
    """Whether an update of these columns can only be judged with the row as it is."""
    if rules.stage_field and rules.stage_field in names:
        return True
    return not rules.inputs.isdisjoint(names) and not rules.inputs <= names.keys()


def reached(rules: Rules, names: Iterable[str]) -> set[str]:
    """The columns that an update of these may change: themselves, what a move of the stage sets, and formulas."""
    columns = set(names)
    if rules.stage_field in columns:
        columns |= rules.moved
    if not rules.inputs.isdisjoint(columns):
        columns |= {column.name for column, _ in rules.formulas}
    return columns


def _derive(shape: ModelShape) -> Rules:
    definition = shape.model.definition
    columns = {name: _column_rules(shape.columns[name]) for name in shape.columns if name in shape.assignable}
    computed = {formula.target for formula in definition.formulas}
    formulas = tuple(
        (shape.columns[formula.target], parse_expression(formula.expr, shape.columns.keys(), comparison=False))
        for formula in definition.formulas
        if formula.tier == 1 and formula.expr and formula.target in shape.assignable
    )
    constraints = tuple(
        ConstraintRule(
            column.name,
            constraint.error_key or "constraint",
            parse_expression(constraint.expr, shape.columns.keys(), comparison=True),
        )
        for column in definition.columns
        for constraint in column.constraints
    )
    read = [expression.columns for _, expression in formulas]
    read += [rule.expression.columns for rule in constraints]
    moves = bool(definition.stages or definition.transitions or definition.on_transition)
    return Rules(
        columns=columns,
        required=tuple(rule for name, rule in columns.items() if rule.required and name not in computed),
        formulas=formulas,
        constraints=constraints,
        inputs=frozenset().union(*read) if read else frozenset(),
        stage_field=definition.stage_field if moves and definition.stage_field in shape.columns else "",
        moved=frozenset(name for step in definition.on_transition for name in step.set),
        organization_columns=frozenset(
            name for name, rule in columns.items() if rule.limits.validator.startswith(ORGANIZATION_PREFIX)
        ),
        zeros=frozenset(
            rollup.target
            for relation in definition.relations
            for rollup in relation.rollups
            if rollup.fn in ("sum", "count") and rollup.target in columns and not columns[rollup.target].has_default
        ),
    )


def _column_rules(column: ColumnShape) -> ColumnRules:
    declared = column.declared
    required = not column.stored.nullable
    has_default = column.stored.default is not None
    if declared is None:
        return ColumnRules(column, required=required, has_default=has_default)
    chooses = declared.options and declared.widget in CHOOSING_WIDGETS
    validation = declared.validation
    limits = Limits(validation.regex, validation.min, validation.max, validation.custom)
    return ColumnRules(
        column,
        required=required or declared.required,
        has_default=has_default or declared.default is not None or bool(declared.sequence),
        default=_default(column, declared.default),
        limits=limits,
        options=frozenset(option.value for option in declared.options) if chooses else None,
        visible_when=declared.visible_when,
        limited=limits != NO_LIMITS,
    )


def _default(column: ColumnShape, text: str | None) -> Any:
    """What a literal default stands for: formulas and constraints see it in a row that lacks the value."""
    if text is None:
        return None
    literal: Any = text[1:-1] if text.startswith("'") and text.endswith("'") and len(text) > 1 else text
    if literal in ("true", "false") and column.kind is Kind.BOOL:
        return literal == "true"
    try:
        if column.kind is Kind.INT:
            return int(literal)
        return read_value(column, literal)
    except (BadValue, ValueError):
        return None
