"""Input of a save against everything that the manifest, the table and the organization demand of it. Pure.

Values of the wrong type are malformed input (400); values that break a rule are refused (422). Either way the answer
names every wrong field at once.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from metacore.dynamic import stages
from metacore.dynamic.patterns import compile_pattern
from metacore.dynamic.rules import ORGANIZATION_PREFIX, ColumnRules, Limits, Rules, rules_of
from metacore.dynamic.shape import TEXT_KINDS, ColumnShape, Kind, ModelShape
from metacore.dynamic.values import BadValue, read_value
from metacore.errors import InvalidInput, MetacoreError, Problem, Refused

log = logging.getLogger(__name__)

MAX_CHOICES = 20
"""Options that a refusal names."""

CustomValidator = Callable[[Any], str | None]
"""Gets a value that is not null; gives what is wrong with it, or None."""


class ConstraintBroken(Refused):
    """All that is wrong is that declared constraints do not hold; the codes of the problems are the addon's own."""


@dataclass(slots=True)
class Findings:
    """Problems so far; `malformed` tells that one of them is about a type, `constraints` how many are constraints."""

    problems: list[Problem] = field(default_factory=list)
    malformed: bool = False
    constraints: int = 0

    def add(self, name: str, code: str, message: str) -> None:
        self.problems.append(Problem(name, code, message))

    def raise_any(self) -> None:
        if self.problems:
            message = "; ".join(f"{problem.field}: {problem.message}" for problem in self.problems[:3])
            if len(self.problems) > 3:
                message += f"; and {len(self.problems) - 3} more"
            error: type[MetacoreError] = InvalidInput if self.malformed else Refused
            if self.constraints == len(self.problems):
                error = ConstraintBroken
            raise error(message, code="invalid_input" if self.malformed else "validation", problems=self.problems)


@dataclass(frozen=True, slots=True)
class Custom:
    """Validators by name: those that the host registered, and the organization's own by key (contract 4)."""

    registered: Mapping[str, CustomValidator]
    organization: Mapping[str, Any]


NO_CUSTOM = Custom({}, {})


def check_create(shape: ModelShape, given: Mapping[str, Any], custom: Custom = NO_CUSTOM) -> dict[str, Any]:
    """The columns to insert. Names that a save may not set are left out.

    Raises:
        InvalidInput: a value of the wrong type.
        Refused: a rule that does not hold.
    """
    rules = rules_of(shape)
    findings = Findings()
    columns: dict[str, Any] = {}
    for name, raw in given.items():
        if name not in shape.assignable:
            continue
        rule = rules.columns[name]
        if raw is None and rule.has_default and not rule.column.stored.nullable:
            # Forms send null for what was left empty: then the default is meant.
            continue
        _take(rule, raw, custom, findings, columns)
    columns = dict.fromkeys(rules.zeros, 0) | columns
    # A value that was refused is not also missing.
    wrong = {problem.field for problem in findings.problems}
    for rule in rules.required:
        name = rule.column.name
        if name not in columns and name not in wrong and not rule.has_default and _asked(rule, columns):
            findings.add(name, "required", "is required")
    definition = shape.model.definition
    if definition.stage_field in columns:
        problem = stages.entry_problem(definition, columns[definition.stage_field])
        if problem is not None:
            findings.problems.append(problem)
    findings.raise_any()
    if rules.formulas or rules.constraints:
        row = {name: rule.default for name, rule in rules.columns.items()} | columns
        columns |= _compute(rules, row, findings)
        findings.raise_any()
    return columns


def whole_row(shape: ModelShape, before: Mapping[str, Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The readable row as it will be once `columns` are saved over `before`; literal defaults stand in a new one."""
    row = {name: rule.default for name, rule in rules_of(shape).columns.items()} if before is None else dict(before)
    return {name: value for name, value in (row | dict(columns)).items() if name in shape.readable_names}


def check_computed(shape: ModelShape, values: Mapping[str, Any]) -> dict[str, Any]:
    """What code computed, as values of its columns.

    Raises:
        Refused: a value that the column cannot have.
    """
    findings = Findings()
    columns: dict[str, Any] = {}
    for name, raw in values.items():
        if name not in shape.assignable:
            continue
        column = shape.columns[name]
        try:
            columns[name] = None if raw is None else read_value(column, raw)
        except BadValue as error:
            findings.add(name, error.code, f"was computed, and does not fit: {error.message}")
    findings.raise_any()
    return columns


def increased(shape: ModelShape, current: Mapping[str, Any], increments: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers of the row become when these are added; a number that is not there counts as 0.

    Raises:
        InvalidInput: a column that holds no numbers, or something else to add to it.
    """
    findings = Findings(malformed=True)
    results: dict[str, Any] = {}
    for name, raw in increments.items():
        column = shape.columns[name]
        if column.kind not in (Kind.INT, Kind.DECIMAL, Kind.FLOAT):
            findings.add(name, "type", "holds no numbers")
            continue
        try:
            step = read_value(column, raw)
            results[name] = (read_value(column, current.get(name) or 0)) + step
        except BadValue as error:
            findings.add(name, error.code, error.message)
    findings.raise_any()
    return results


def check_update(
    shape: ModelShape,
    given: Mapping[str, Any],
    current: Mapping[str, Any] | None,
    now: datetime.datetime,
    custom: Custom = NO_CUSTOM,
) -> dict[str, Any]:
    """The columns to set. `current` is the row as JSON values, needed when `needs_current` says so.

    Raises:
        InvalidInput: a value of the wrong type.
        Refused: a rule that does not hold, or a stage transition that is not allowed.
    """
    rules = rules_of(shape)
    findings = Findings()
    columns: dict[str, Any] = {}
    for name, raw in given.items():
        if name in shape.assignable:
            _take(rules.columns[name], raw, custom, findings, columns, current)
    definition = shape.model.definition
    if current is not None and rules.stage_field in columns:
        before, after = current.get(rules.stage_field), columns[rules.stage_field]
        if (problem := stages.move_problem(definition, before, after)) is not None:
            findings.raise_any()
            raise Refused(problem.message, code=problem.code, problems=[problem])
        for name, raw in stages.set_by_move(shape, before, after, now).items():
            _take(rules.columns[name], raw, custom, findings, columns)
    findings.raise_any()
    if not rules.inputs.isdisjoint(columns):
        columns |= _compute(rules, _typed(shape, rules, current or {}) | columns, findings)
        findings.raise_any()
    return columns


def _take(
    rule: ColumnRules,
    raw: Any,
    custom: Custom,
    findings: Findings,
    columns: dict[str, Any],
    current: Mapping[str, Any] | None = None,
) -> None:
    """Put the value into `columns`, or what is wrong with it into `findings`."""
    name = rule.column.name
    if raw is None or (raw == "" and rule.required):
        if not rule.column.stored.nullable or (rule.required and _asked(rule, {**(current or {}), **columns})):
            findings.add(name, "required", "is required")
        else:
            columns[name] = None
        return
    try:
        value = read_value(rule.column, raw)
    except BadValue as error:
        findings.malformed = True
        findings.add(name, error.code, error.message)
        return
    columns[name] = value
    if rule.limited:
        limits = _limits_of(rule, custom)
        _check_limits(rule, limits, value, findings)
        if limits.validator:
            _check_validator(rule, limits.validator, value, custom, findings)
    if rule.options is not None:
        chosen = raw if rule.column.kind is Kind.JSON and isinstance(raw, list) else [raw]
        if not all(_hashable(item) and item in rule.options for item in chosen):
            findings.add(name, "option", f"is not one of the options: {_choices(rule)}")


def _check_limits(rule: ColumnRules, limits: Limits, value: Any, findings: Findings) -> None:
    """`minimum` and `maximum` bound a number's value and a text's length."""
    name, kind, low, high = rule.column.name, rule.column.kind, limits.minimum, limits.maximum
    if kind in TEXT_KINDS:
        if low is not None and len(value) < low:
            findings.add(name, "min", limits.message or f"needs at least {low:g} characters")
        if high is not None and len(value) > high:
            findings.add(name, "max", limits.message or f"may have at most {high:g} characters")
        if limits.regex and not _matches(limits.regex, value):
            findings.add(name, "regex", limits.message or "does not have the expected form")
    elif kind in (Kind.INT, Kind.DECIMAL, Kind.FLOAT):
        if low is not None and value < low:
            findings.add(name, "min", limits.message or f"must be at least {low:g}")
        if high is not None and value > high:
            findings.add(name, "max", limits.message or f"must be at most {high:g}")


def _limits_of(rule: ColumnRules, custom: Custom) -> Limits:
    """The author's limits; an organization's own rule wins where it says something (contract 4)."""
    limits = rule.limits
    if not limits.validator.startswith(ORGANIZATION_PREFIX):
        return limits
    own = custom.organization.get(limits.validator.removeprefix(ORGANIZATION_PREFIX))
    if isinstance(own, str):
        return replace(limits, validator=own)
    if not isinstance(own, Mapping):
        return replace(limits, validator="")
    low, high = _number(own.get("min")), _number(own.get("max"))
    return Limits(
        regex=str(own.get("regex") or limits.regex),
        minimum=low if low is not None else limits.minimum,
        maximum=high if high is not None else limits.maximum,
        validator=str(own.get("custom") or ""),
        message=str(own.get("message") or ""),
    )


def _check_validator(rule: ColumnRules, name: str, value: Any, custom: Custom, findings: Findings) -> None:
    validator = custom.registered.get(name)
    if validator is None:
        log.debug("validator %r is not registered in this host; %s is not checked by it", name, rule.column.name)
    elif (message := validator(value)) is not None:
        findings.add(rule.column.name, name, message)


def _compute(rules: Rules, row: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """The formulas' results, and the constraints against the row with these in it."""
    results: dict[str, Any] = {}
    for column, expression in rules.formulas:
        computed = expression.evaluate(row)
        try:
            value = None if computed is None else read_value(column, fitting(column, computed))
        except BadValue as error:
            findings.add(column.name, error.code, f"{expression.text} gives {computed}: {error.message}")
            continue
        results[column.name] = row[column.name] = value
    for constraint in rules.constraints:
        if constraint.expression.evaluate(row) is False:
            findings.constraints += 1
            findings.add(constraint.field, constraint.code, f"{constraint.expression.text} does not hold")
    return results


def fitting(column: ColumnShape, computed: Decimal | bool) -> Any:
    """What was computed, as a value that a save of the column takes."""
    if column.kind is Kind.INT and isinstance(computed, Decimal):
        return int(computed.to_integral_value(ROUND_HALF_UP))
    if column.kind in TEXT_KINDS:
        return format(computed, "f") if isinstance(computed, Decimal) else str(computed).lower()
    return computed


def _typed(shape: ModelShape, rules: Rules, current: Mapping[str, Any]) -> dict[str, Any]:
    """The current values of what formulas and constraints read, with their types."""
    row: dict[str, Any] = {}
    for name in rules.inputs:
        raw = current.get(name)
        row[name] = None if raw is None else read_value(shape.columns[name], raw)
    return row


def _asked(rule: ColumnRules, row: Mapping[str, Any]) -> bool:
    """A column that the form hides under this condition is not asked for."""
    condition = rule.visible_when
    if condition is None or not rule.column.stored.nullable:
        return True
    value = row.get(condition.field)
    return value in condition.any_of if condition.any_of else value == condition.equals


def _matches(regex: str, value: str) -> bool:
    pattern = compile_pattern(regex)
    if pattern is None:
        log.debug("pattern %r cannot be used; nothing is checked by it", regex[:200])
        return True
    return pattern.search(value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _choices(rule: ColumnRules) -> str:
    declared = rule.column.declared
    values = [str(option.value) for option in declared.options] if declared is not None else []
    more = f" and {len(values) - MAX_CHOICES} more" if len(values) > MAX_CHOICES else ""
    return ", ".join(values[:MAX_CHOICES]) + more


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
