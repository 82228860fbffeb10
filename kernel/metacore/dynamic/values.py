"""One value: from JSON to what a column of its type holds, and from the text of a filter or cursor to the same.

What comes out is str, int, float, bool, Decimal, UUID, date or aware datetime in UTC; JSON columns keep any JSON value.
"""

from __future__ import annotations

import datetime
import math
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import orjson

from metacore.dynamic.shape import ColumnShape, Kind

UTC = datetime.UTC
MAX_NUMBER_TEXT = 64
DECIMAL_CONTEXT = Context(prec=1_000, Emax=10_000, Emin=-10_000)
TRUE_WORDS = frozenset({"true", "1"})
FALSE_WORDS = frozenset({"false", "0"})
DATE_LENGTH = len("2026-01-31")

_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(:\d\d)?(?:\.(\d{1,9}))?\s?([Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)


class BadValue(Exception):
    """A value that a column cannot hold. `code` is a stable word, `message` says what is expected."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def read_value(column: ColumnShape, raw: Any) -> Any:
    """The value that `column` stores for the JSON value (or Python value of the same meaning) `raw`, which is not None.

    Raises:
        BadValue: `type` for another JSON type or malformed text, `too_long`, `out_of_range`, `invalid_character`.
    """
    return _READERS[column.kind](column, raw)


def read_text(column: ColumnShape, text: str) -> Any:
    """The value that `text`, from a query string, means in `column`.

    Raises:
        BadValue: it cannot be a value of the column's type.
    """
    match column.kind:
        case Kind.STRING | Kind.TEXT | Kind.OTHER:
            return _characters(text)
        case Kind.INT:
            if not _INTEGER.fullmatch(text):
                raise BadValue("type", "expected a whole number")
            return _integer(column, int(text))
        case Kind.DECIMAL:
            return _decimal_of(text)
        case Kind.FLOAT:
            return float(_decimal_of(text))
        case Kind.BOOL:
            word = text.lower()
            if word in TRUE_WORDS:
                return True
            if word in FALSE_WORDS:
                return False
            raise BadValue("type", "expected true or false")
        case _:
            return read_value(column, text)


def text_of(value: Any) -> str:
    """`value` as `read_text` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value)


def is_date_only(text: str) -> bool:
    return len(text) == DATE_LENGTH


def _string(column: ColumnShape, raw: Any) -> str:
    if not isinstance(raw, str):
        raise BadValue("type", "expected a text")
    text = _characters(raw)
    if column.size is not None and len(text) > column.size:
        raise BadValue("too_long", f"at most {column.size} characters")
    return text


def _characters(text: str) -> str:
    if "\x00" in text:
        raise BadValue("invalid_character", "the NUL character cannot be stored")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValue("invalid_character", "the text is not valid Unicode") from None
    return text


def _uuid(_column: ColumnShape, raw: Any) -> uuid.UUID:
    if isinstance(raw, uuid.UUID):
        return raw
    if isinstance(raw, str) and len(raw) == 36:
        try:
            return uuid.UUID(raw)
        except ValueError:
            pass
    raise BadValue("type", "expected a UUID")


def _int(column: ColumnShape, raw: Any) -> int:
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise BadValue("type", "expected a whole number")
    return _integer(column, raw)


def _integer(column: ColumnShape, number: int) -> int:
    bound = 1 << (column.bits - 1)
    if not -bound <= number < bound:
        raise BadValue("out_of_range", f"must be between {-bound} and {bound - 1}")
    return number


def _decimal(column: ColumnShape, raw: Any) -> Decimal:
    """JSON numbers, and decimal numbers as text: beyond 15 digits a JSON number is no longer exact in most clients."""
    if isinstance(raw, Decimal):
        number = raw
    elif isinstance(raw, bool):
        raise BadValue("type", "expected a number")
    elif isinstance(raw, int):
        number = Decimal(raw)
    elif isinstance(raw, float):
        number = Decimal(repr(raw))
    elif isinstance(raw, str):
        number = _decimal_of(raw)
    else:
        raise BadValue("type", "expected a number")
    if not number.is_finite():
        raise BadValue("type", "expected a finite number")
    if column.precision is None or column.scale is None:
        return number
    try:
        rounded = number.quantize(Decimal(1).scaleb(-column.scale), ROUND_HALF_UP, DECIMAL_CONTEXT)
    except InvalidOperation:
        raise BadValue("out_of_range", f"at most {column.precision - column.scale} digits before the point") from None
    if rounded and rounded.adjusted() >= column.precision - column.scale:
        raise BadValue("out_of_range", f"at most {column.precision - column.scale} digits before the point")
    return rounded


def _decimal_of(text: str) -> Decimal:
    if len(text) > MAX_NUMBER_TEXT or not _DECIMAL.fullmatch(text):
        raise BadValue("type", "expected a number")
    return Decimal(text)


def _float(_column: ColumnShape, raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | Decimal):
        raise BadValue("type", "expected a number")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadValue("type", "expected a finite number")
    return number


def _bool(_column: ColumnShape, raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise BadValue("type", "expected true or false")
    return raw


def _instant(_column: ColumnShape, raw: Any) -> datetime.datetime:
    """RFC 3339; a time without offset is UTC, a date alone its midnight in UTC."""
    if isinstance(raw, datetime.datetime):
        return raw.replace(tzinfo=UTC) if raw.tzinfo is None else raw.astimezone(UTC)
    if isinstance(raw, str) and (found := _INSTANT.fullmatch(raw)) is not None:
        day, clock, seconds, fraction, offset = found.groups()
        text = f"{day}T{clock or '00:00'}{seconds or ':00'}.{(fraction or '')[:6]:0<6}"
        try:
            moment = datetime.datetime.fromisoformat(text + ("+00:00" if offset in (None, "Z", "z") else offset))
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise BadValue("type", "expected a time such as 2026-01-31T12:00:00Z")


def _date(_column: ColumnShape, raw: Any) -> datetime.date:
    if isinstance(raw, datetime.date) and not isinstance(raw, datetime.datetime):
        return raw
    if isinstance(raw, str) and _DATE.fullmatch(raw):
        try:
            return datetime.date.fromisoformat(raw)
        except ValueError:
            pass
    raise BadValue("type", "expected a date such as 2026-01-31")


def _json(_column: ColumnShape, raw: Any) -> Any:
    try:
        encoded = orjson.dumps(raw)
    except TypeError:
        raise BadValue("type", "expected a JSON value of at most 254 levels, with numbers of at most 64 bits") from None
    # PostgreSQL's jsonb has no NUL. The escape may also be a written-out backslash, so look again before refusing.
    if b"\\u0000" in encoded and _holds_nul(raw):
        raise BadValue("invalid_character", "the NUL character cannot be stored")
    return raw


def _other(_column: ColumnShape, raw: Any) -> Any:
    return _characters(raw) if isinstance(raw, str) else _json(_column, raw)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any("\x00" in str(key) or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(_holds_nul(inner) for inner in value)


_READERS: Mapping[Kind, Callable[[ColumnShape, Any], Any]] = {
    Kind.STRING: _string,
    Kind.TEXT: _string,
    Kind.UUID: _uuid,
    Kind.INT: _int,
    Kind.DECIMAL: _decimal,
    Kind.FLOAT: _float,
    Kind.BOOL: _bool,
    Kind.INSTANT: _instant,
    Kind.CLOCK: _instant,
    Kind.DATE: _date,
    Kind.JSON: _json,
    Kind.OTHER: _other,
}
