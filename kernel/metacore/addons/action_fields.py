"""The input of an action against the fields that its manifest declares. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from metacore.dynamic.patterns import compile_pattern
from metacore.errors import Problem, Refused
from metacore.metadata.model import FieldDef, ValidationDef

MAX_PROBLEMS: Final = 50
TEXTS: Final = frozenset({"text", "textarea", "email", "url", "image", "password", "richtext", "search", "file"})
CHOICES: Final = frozenset({"select", "radio"})
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_URL = re.compile(r"(https?://|/)\S+")


def checked_input(fields: Iterable[FieldDef], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with defaults filled in. What no field names is handed on as it is: an action without fields takes any.

    Raises:
        Refused: a required field is missing, or a value breaks its field's rule; every problem by field.
    """
    values = dict(given)
    problems: list[Problem] = []
    for field in fields:
        value = values.get(field.key)
        if value is None and field.default_value is not None:
            value = values[field.key] = field.default_value
        if value is None or value == "":
            if field.required:
                problems.append(Problem(field.key, "required", "is required"))
            continue
        found = _problem(field, value)
        if found is not None:
            problems.append(Problem(field.key, *found))
    if problems:
        told = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
        raise Refused(told, code="validation", problems=problems[:MAX_PROBLEMS])
    return values


def _problem(field: FieldDef, value: Any) -> tuple[str, str] | None:
    """Code and message of what is wrong with a value, or None."""
    kind = field.type
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "type", "must be a number"
    elif kind == "boolean":
        if not isinstance(value, bool):
            return "type", "must be true or false"
    elif kind in ("date", "datetime"):
        if not _is_moment(value, whole_day=kind == "date"):
            return "type", "must be a date such as 2026-01-31" if kind == "date" else "must be a time (RFC 3339)"
    elif kind in TEXTS and not isinstance(value, str):
        return "type", "must be a text"
    if kind == "email" and _EMAIL.fullmatch(value) is None:
        return "email", "is not an e-mail address"
    if kind == "url" and _URL.fullmatch(value) is None:
        return "url", "is not a URL"
    if kind in CHOICES and field.options and not _is_option(field, value):
        return "option", "is not one of the options"
    if isinstance(field.validation, ValidationDef):
        return _limit_problem(field.validation, value)
    return None


def _limit_problem(limits: ValidationDef, value: Any) -> tuple[str, str] | None:
    """`min` and `max` bound a number's value and a text's length."""
    if isinstance(value, str):
        if limits.min is not None and len(value) < limits.min:
            return "min", f"needs at least {limits.min:g} characters"
        if limits.max is not None and len(value) > limits.max:
            return "max", f"may have at most {limits.max:g} characters"
        pattern = compile_pattern(limits.regex) if limits.regex else None
        if pattern is not None and not pattern.search(value):
            return "regex", "does not have the expected form"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if limits.min is not None and value < limits.min:
            return "min", f"must be at least {limits.min:g}"
        if limits.max is not None and value > limits.max:
            return "max", f"must be at most {limits.max:g}"
    return None


def _is_option(field: FieldDef, value: Any) -> bool:
    options = [option.value for option in field.options]
    chosen = value if isinstance(value, list) else [value]
    return all(item in options for item in chosen)


def _is_moment(value: Any, *, whole_day: bool) -> bool:
    if not isinstance(value, str):
        return False
    try:
        if whole_day:
            datetime.date.fromisoformat(value)
        else:
            datetime.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
