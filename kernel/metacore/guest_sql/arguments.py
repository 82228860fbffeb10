"""Arguments of a guest's statement: from JSON to what the places in the statement take."""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from metacore.guest_sql.judgement import Refused
from metacore.wasm.abi import HostCode

INTEGERS = {"int2": 15, "int4": 31, "int8": 63}
"""Bits of magnitude by type."""
TEXTS = frozenset({"text", "varchar", "bpchar", "char", "name", "citext", "unknown"})
JSON_TYPES = frozenset({"json", "jsonb"})

Value = bool | int | float | str | bytes | uuid.UUID | datetime.datetime | None


def decode(args: Sequence[Any]) -> list[Value]:
    """The values that the guest gave: null, bool, integer, float, string, `{"$bytes": base64}`, `{"$uuid": text}` and
    `{"$ts": RFC 3339}`.

    Raises:
        Refused: with `arg_decode`, naming the argument by its number.
    """
    return [_decoded(number, value) for number, value in enumerate(args, 1)]


def convert(values: Sequence[Value], types: Sequence[str], *, json_as_bytes: bool) -> list[Any]:
    """`values` as the driver wants them for places of these PostgreSQL types. `json_as_bytes` tells in which form this
    connection takes JSON.

    Raises:
        Refused: with `arg_decode`, naming the argument and both types.
    """
    return [
        None if value is None else _converted(number, value, kind, json_as_bytes)
        for number, (value, kind) in enumerate(zip(values, types, strict=True), 1)
    ]


def taken_for_text(values: Sequence[Value], types: Sequence[str]) -> list[int]:
    """The arguments, by number, that are no text at places that take it, as those do of which nothing is known."""
    return [
        number
        for number, (value, kind) in enumerate(zip(values, types, strict=True), 1)
        if kind == "text" and not isinstance(value, str | uuid.UUID | None)
    ]


def _decoded(number: int, value: Any) -> Value:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise _no(number, "does not fit an int8")
        return value
    if isinstance(value, str):
        if "\x00" in value:
            raise _no(number, "holds a NUL character, which no text of PostgreSQL can")
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((tag, inner),) = value.items()
        reader = TAGS.get(tag)
        if reader is not None and isinstance(inner, str):
            try:
                return reader(inner)
            except (ValueError, binascii.Error):
                raise _no(number, f"is no {tag}: {reader.__doc__}") from None
    raise _no(number, 'must be null, a bool, a number, a string, {"$bytes"}, {"$uuid"} or {"$ts"}')


def _bytes(text: str) -> bytes:
    """base64 is expected"""
    return base64.b64decode(text, validate=True)


def _uuid(text: str) -> uuid.UUID:
    """32 hex digits, usually with hyphens, are expected"""
    return uuid.UUID(text)


def _moment(text: str) -> datetime.datetime:
    """a time of RFC 3339 with its offset is expected"""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


TAGS: Mapping[str, Callable[[str], Value]] = {"$bytes": _bytes, "$uuid": _uuid, "$ts": _moment}


def _converted(number: int, value: Value, kind: str, json_as_bytes: bool) -> Any:
    if kind in JSON_TYPES:
        return _json(number, value, json_as_bytes)
    reader = PLACES.get(kind)
    try:
        if kind in INTEGERS:
            return _integer(value, INTEGERS[kind])
        if kind in TEXTS or reader is None:
            # Of other types (enums, domains over text) the driver takes text, or says that it does not.
            return _text(value)
        return reader(value)
    except (ValueError, decimal.InvalidOperation, OverflowError):
        raise _no(number, f"is {spoken(value)}; its place in the statement takes {kind}") from None


def _integer(value: Value, bits: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits:
        return value
    raise ValueError


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    raise ValueError


def _float(value: Value) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError


def _numeric(value: Value) -> decimal.Decimal:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return decimal.Decimal(repr(value) if isinstance(value, float) else value)
    raise ValueError


def _bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError


def _identifier(value: Value) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(_text(value))


def _binary(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError


def _time_with_zone(value: Value) -> datetime.datetime:
    moment = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)


def _time_without_zone(value: Value) -> datetime.datetime:
    return _time_with_zone(value).astimezone(datetime.UTC).replace(tzinfo=None)


def _date(value: Value) -> datetime.date:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).date()
    return datetime.date.fromisoformat(_text(value))


def _time(value: Value) -> datetime.time:
    return datetime.time.fromisoformat(_text(value))


PLACES: Mapping[str, Callable[[Value], Any]] = {
    "float4": _float,
    "float8": _float,
    "numeric": _numeric,
    "bool": _bool,
    "uuid": _identifier,
    "bytea": _binary,
    "timestamptz": _time_with_zone,
    "timestamp": _time_without_zone,
    "date": _date,
    "time": _time,
}


def _json(number: int, value: Value, as_bytes: bool) -> bytes | str:
    """A string is JSON text, as for PostgreSQL itself; a number or a bool is its own."""
    if isinstance(value, str):
        try:
            orjson.loads(value)
        except ValueError:
            raise _no(number, "is no JSON text; its place in the statement takes json") from None
        text = value
    elif isinstance(value, bool | int | float):
        text = orjson.dumps(value).decode()
    else:
        raise _no(number, f"is {spoken(value)}; its place in the statement takes json")
    return text.encode() if as_bytes else text


def spoken(value: Value) -> str:
    """The kind of a value, never the value."""
    for kind, word in WORDS:
        if isinstance(value, kind):
            return word
    return "null"


WORDS: Sequence[tuple[type, str]] = (
    (bool, "a bool"),
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (bytes, "$bytes"),
    (uuid.UUID, "$uuid"),
    (datetime.datetime, "$ts"),
)


def _no(number: int, what: str) -> Refused:
    return Refused(HostCode.ARG_DECODE, f"argument {number} {what}")
