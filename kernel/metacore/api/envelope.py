"""The JSON envelope of every reply: `{"success": true, "data": …}` (contract 1)."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

JSON_TYPE = "application/json"


def dumps(value: Any) -> bytes:
    """JSON bytes; UUIDs and times as contract 1 writes them, decimals as numbers."""
    return orjson.dumps(value, default=_fallback, option=orjson.OPT_UTC_Z)


def _fallback(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


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
