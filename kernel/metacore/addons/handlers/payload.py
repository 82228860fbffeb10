"""The JSON of a request to an addon's code."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Mapping
from typing import Any

import orjson


def encoded(payload: Mapping[str, Any]) -> bytes:
    """`payload` as JSON: times in RFC 3339 and UTC, decimals as numbers with every digit that they have.

    Raises:
        TypeError: something in it has no JSON form.
    """
    return orjson.dumps(payload, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
