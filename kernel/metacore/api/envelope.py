"""The JSON envelope of every reply: `{"success": true, "data": …}` (contract 1)."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

JSON_TYPE = "application/json"


TIMES = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
"""What a column without time zone holds is UTC, too."""
INT64 = range(-(2**63), 2**64)
"""Integers that orjson writes by itself."""
MAX_DEPTH = 100
"""How deep input is told back; orjson gives up at 254."""


def dumps(value: Any) -> bytes:
    """JSON bytes; UUIDs and times as contract 1 writes them, decimals as numbers with every digit that they have.

    Raises:
        TypeError: something in `value` has no JSON form.
    """
    try:
        return orjson.dumps(value, default=_fallback, option=TIMES)
    except orjson.JSONEncodeError:
        # Input that is told back may hold what only Python takes for JSON: numbers of any size, halves of characters.
        return orjson.dumps(_tamed(value), default=_fallback, option=TIMES)


def _fallback(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    if isinstance(value, uuid.UUID):
        # orjson knows the class itself, asyncpg gives one that is derived from it.
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _tamed(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {_tamed(key): _tamed(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_tamed(item, depth + 1) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool) and value not in INT64:
        return orjson.Fragment(str(value))
    return value


def ok(
    data: Any,
    *,
    status: int = 200,
    meta: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **beside: Any,
) -> Response:
    """A success. `beside` adds keys next to `data`, where older clients look for them."""
    body: dict[str, Any] = {"success": True, "data": data, **beside}
    if meta is not None:
        body["meta"] = meta
    return raw(dumps(body), status=status, headers=headers)


def bare(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A reply without envelope, for the routes that the contract calls bare."""
    return raw(dumps(data), status=status, headers=headers)


def raw(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON bytes that are complete already."""
    return Response(body, status, headers=dict(headers) if headers else None, media_type=JSON_TYPE)
