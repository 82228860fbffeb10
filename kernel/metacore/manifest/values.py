"""Whether a JSON value can be stored in a declared column; used for seeds and setting defaults."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from metacore.manifest.defaults import BIGINT_RANGE, DECIMAL_PRECISION, DECIMAL_SCALE, INT_RANGE
from metacore.manifest.model import Column, ColumnType
from metacore.manifest.walk import shown


def value_problem(value: Any, column: Column) -> str:
    """What is wrong with `value`, '' when nothing is. Null is left to the caller."""
    fits = True
    match column.type:
        case ColumnType.STRING | ColumnType.TEXT:
            fits = isinstance(value, str)
            if fits and column.size is not None and len(value) > column.size:
                return f"is longer than {column.size} characters"
        case ColumnType.INT | ColumnType.BIGINT:
            low, high = INT_RANGE if column.type is ColumnType.INT else BIGINT_RANGE
            fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        case ColumnType.DECIMAL:
            fits = _is_number(value) and abs(value) < 10 ** (DECIMAL_PRECISION - DECIMAL_SCALE)
        case ColumnType.BOOL:
            fits = isinstance(value, bool)
        case ColumnType.UUID:
            fits = isinstance(value, str) and _reads(uuid.UUID, value)
        case ColumnType.TIMESTAMP:
            fits = isinstance(value, str) and _reads(datetime.datetime.fromisoformat, value)
        case ColumnType.DATE:
            fits = isinstance(value, str) and _reads(datetime.date.fromisoformat, value)
        case ColumnType.JSONB:
            fits = True
    return "" if fits else f"{shown(value)} is no {column.type.value} value"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads(reader: Any, text: str) -> bool:
    try:
        reader(text)
    except ValueError:
        return False
    return True
