"""Column defaults: the few forms that are allowed, checked against the column's type, as SQL expressions.

What comes out is safe to put into DDL as it is: it holds no quote but the two around a text, no semicolon and no
backslash. (Run it through the driver, not through SQLAlchemy's text(), which would read `:name` as a parameter.)
"""

from __future__ import annotations

import datetime
import json
import math
import re
import uuid
from decimal import Decimal
from typing import Any

from metacore.errors import InvalidInput
from metacore.manifest.model import ColumnType
from metacore.manifest.walk import shown

DECIMAL_PRECISION, DECIMAL_SCALE = 18, 4
INT_RANGE = (-(2**31), 2**31 - 1)
BIGINT_RANGE = (-(2**63), 2**63 - 1)
MAX_LITERAL = 1_000

TIMES = frozenset({"now()", "current_timestamp"})
UUIDS = frozenset({"gen_random_uuid()", "uuid_generate_v4()"})
WORDS = frozenset({"true", "false", "null"})
_NUMBER = re.compile(r"[+-]?(\d{1,40})(\.\d{1,40})?")
_QUOTED = re.compile(r"'([^'\";\\\x00-\x1f\x7f]*)'")
_TEXT = (ColumnType.STRING, ColumnType.TEXT)


def sql_default(value: Any, column_type: ColumnType, *, size: int | None = None, bare_text: bool = False) -> str | None:
    """The SQL expression for a declared default; None when there is none (JSON null, or the word null).

    `bare_text` is how v3 reads strings: one that is no expression of the column's type is a literal. `size` bounds the
    text of a string column.

    Raises:
        InvalidInput: not one of the allowed forms, or one that the column's type cannot hold; the message reads
            `… not allowed`.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return _word("true" if value else "false", column_type, value)
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise _refused(value)
        exact = int(value) if isinstance(value, float) and value.is_integer() else value
        return _number(format(Decimal(repr(exact)), "f"), column_type, value)
    if not isinstance(value, str):
        raise _refused(value)
    if len(value) > MAX_LITERAL:
        raise InvalidInput(f"a text of more than {MAX_LITERAL} characters is not allowed", code="default")
    return _from_text(value, column_type, size, bare_text)


def _from_text(text: str, column_type: ColumnType, size: int | None, bare_text: bool) -> str | None:
    word = text.strip().lower()
    quoted = _QUOTED.fullmatch(text.strip())
    if quoted is not None:
        return _literal(quoted[1], column_type, size, text)
    if bare_text and column_type in _TEXT:
        return _literal(text, column_type, size, text)
    if word in TIMES:
        if column_type not in (ColumnType.TIMESTAMP, ColumnType.DATE):
            raise _unfit(text, column_type)
        return word
    if word in UUIDS:
        if column_type is not ColumnType.UUID:
            raise _unfit(text, column_type)
        # The same value without the extension that uuid_generate_v4() needs.
        return "gen_random_uuid()"
    if word in WORDS:
        return _word(word, column_type, text)
    if _NUMBER.fullmatch(word):
        return _number(word.removeprefix("+"), column_type, text)
    if word == "" and not bare_text:
        return None
    if bare_text:
        return _literal(text, column_type, size, text)
    raise _refused(text)


def _word(word: str, column_type: ColumnType, given: Any) -> str | None:
    if word == "null":
        return None
    if column_type in (ColumnType.BOOL, ColumnType.JSONB):
        return word if column_type is ColumnType.BOOL else f"'{word}'"
    if column_type in _TEXT:
        return f"'{word}'"
    raise _unfit(given, column_type)


def _number(number: str, column_type: ColumnType, given: Any) -> str:
    value = Decimal(number)
    if column_type in (ColumnType.INT, ColumnType.BIGINT):
        low, high = INT_RANGE if column_type is ColumnType.INT else BIGINT_RANGE
        if value != value.to_integral_value() or not low <= value <= high:
            raise _unfit(given, column_type)
        return format(value.to_integral_value(), "f")
    if column_type is ColumnType.DECIMAL:
        if abs(value) >= Decimal(10) ** (DECIMAL_PRECISION - DECIMAL_SCALE):
            raise _unfit(given, column_type)
        return number
    if column_type in _TEXT or column_type is ColumnType.JSONB:
        return f"'{number}'"
    raise _unfit(given, column_type)


def _literal(text: str, column_type: ColumnType, size: int | None, given: str) -> str:
    if not _QUOTED.fullmatch(f"'{text}'"):
        raise InvalidInput(
            f"{shown(given)} is not allowed: a text may hold no quote, semicolon, backslash or control character",
            code="default",
        )
    if not _fits(text, column_type, size):
        raise _unfit(given, column_type)
    return f"'{text}'"


def _fits(text: str, column_type: ColumnType, size: int | None) -> bool:
    try:
        match column_type:
            case ColumnType.STRING:
                return size is None or len(text) <= size
            case ColumnType.TEXT:
                return True
            case ColumnType.UUID:
                return str(uuid.UUID(text)) == text.lower()
            case ColumnType.INT | ColumnType.BIGINT | ColumnType.DECIMAL:
                return bool(_NUMBER.fullmatch(text)) and bool(_number(text.removeprefix("+"), column_type, text))
            case ColumnType.BOOL:
                return text.lower() in ("true", "false")
            case ColumnType.TIMESTAMP:
                datetime.datetime.fromisoformat(text)
            case ColumnType.DATE:
                datetime.date.fromisoformat(text)
            case ColumnType.JSONB:
                json.loads(text)
    except (ValueError, InvalidInput, RecursionError):
        return False
    return True


def _refused(value: Any) -> InvalidInput:
    return InvalidInput(
        f"{shown(value)} is not allowed: a default is a number, a 'quoted' text, now(), current_timestamp,"
        " gen_random_uuid(), uuid_generate_v4(), true, false or null",
        code="default",
    )


def _unfit(value: Any, column_type: ColumnType) -> InvalidInput:
    return InvalidInput(f"{shown(value)} is not allowed: it is no {column_type.value} value", code="default")
