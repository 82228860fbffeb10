"""`f_<column>=<operator>:<value>` as conditions. Contract 5 names the operators."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metacore.dynamic.shape import TIME_KINDS, ColumnShape, Kind
from metacore.dynamic.values import BadValue, is_date_only, read_text, read_value
from metacore.errors import InvalidInput, Problem

MAX_TERM = 200
"""Characters of a search term or an `ilike` value that count; the rest is cut off."""

MAX_IN_VALUES = 500
DAY = datetime.timedelta(days=1)
NOT_AS_TEXT = TIME_KINDS | {Kind.BOOL, Kind.DATE}
"""Kinds whose text is not the same in every database, so `ilike` cannot mean one thing."""


class Operator(StrEnum):
    """What a condition compares with. `LT` and `NULL` cannot be asked for: the first ends a range that was given as a
    day, the second is for code that looks for rows without a value."""

    EQ = "eq"
    ILIKE = "ilike"
    IN = "in"
    GTE = "gte"
    LTE = "lte"
    LT = "lt"
    NULL = "null"


WORDS = frozenset({"eq", "ilike", "in", "gte", "lte", "range"})
_LIKE_AN_OPERATOR = re.compile(r"([A-Za-z_]{1,16}):")


@dataclass(frozen=True, slots=True)
class Condition:
    """`value` is of the column's type, a tuple of such for `IN`, the bare term for `ILIKE`, nothing for `NULL`."""

    column: str
    operator: Operator
    value: Any


def parse_filter(column: ColumnShape, text: str) -> list[Condition]:
    """The conditions that `text` (the value of one `f_` parameter) puts on `column`.

    An empty value is no condition: forms send that for a filter that was cleared. On times, a date alone means that
    whole day: `eq` is within it, and `lte` and the end of a `range` include it.

    Raises:
        InvalidInput: a value that cannot be of the column's type, or an operator that the type does not have.
    """
    word, colon, rest = text.partition(":")
    if not colon or word not in WORDS:
        word, rest = "eq", text
        if not text:
            return []
    try:
        return _conditions(column, word, rest)
    except BadValue as error:
        field = f"f_{column.name}"
        message = error.message
        if colon and word == "eq" and (meant := _LIKE_AN_OPERATOR.match(rest)) is not None:
            message += f"; {meant[1]!r} is no operator, there are {', '.join(sorted(WORDS))}"
        raise InvalidInput(
            f"filter {field}: {message}",
            code="invalid_filter",
            problems=[Problem(field, error.code, message)],
        ) from error


def equal_to(column: ColumnShape, value: Any) -> Condition:
    """The condition that `column` has the JSON value `value`; null means that it has none.

    Raises:
        BadValue: it cannot be a value of the column, or values of such columns cannot be compared.
    """
    if value is None:
        return Condition(column.name, Operator.NULL, None)
    if column.kind is Kind.JSON:
        raise BadValue("operator", "JSON cannot be compared")
    return Condition(column.name, Operator.EQ, read_value(column, value))


def _conditions(column: ColumnShape, word: str, rest: str) -> list[Condition]:
    if column.kind is Kind.JSON and word != "ilike":
        raise BadValue("operator", f"{word} does not work on JSON; ilike does")
    match word:
        case "eq":
            return _equal(column, rest)
        case "ilike":
            if column.kind in NOT_AS_TEXT:
                raise BadValue("operator", "ilike works on texts and numbers only")
            return [Condition(column.name, Operator.ILIKE, rest[:MAX_TERM])] if rest else []
        case "in":
            return _one_of(column, rest)
    if not column.ordered:
        raise BadValue("operator", f"{word} does not work on this column: its values have no order")
    match word:
        case "gte":
            return _from(column, rest)
        case "lte":
            return _until(column, rest)
        case _:
            low, _, high = rest.partition("|")
            return [*_from(column, low), *_until(column, high)]


def _equal(column: ColumnShape, text: str) -> list[Condition]:
    if column.kind in TIME_KINDS and is_date_only(text):
        return [*_from(column, text), *_until(column, text)]
    if not text and column.kind not in (Kind.STRING, Kind.TEXT):
        return []
    return [Condition(column.name, Operator.EQ, read_text(column, text))]


def _one_of(column: ColumnShape, text: str) -> list[Condition]:
    if not text:
        return []
    parts = text.split(",")
    if len(parts) > MAX_IN_VALUES:
        raise BadValue("too_many", f"at most {MAX_IN_VALUES} values")
    values = dict.fromkeys(read_text(column, part) for part in parts)
    return [Condition(column.name, Operator.IN, tuple(values))]


def _from(column: ColumnShape, text: str) -> list[Condition]:
    return [Condition(column.name, Operator.GTE, read_text(column, text))] if text else []


def _until(column: ColumnShape, text: str) -> list[Condition]:
    if not text:
        return []
    value = read_text(column, text)
    if column.kind in TIME_KINDS and is_date_only(text):
        try:
            return [Condition(column.name, Operator.LT, value + DAY)]
        except OverflowError:
            return []
    return [Condition(column.name, Operator.LTE, value)]
