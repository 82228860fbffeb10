"""From bytes to a JSON object that is safe to walk: UTF-8, no duplicate keys, bounded in size and depth."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from metacore.errors import ManifestInvalid, Problem
from metacore.manifest.walk import ROOT, Report, join, kind_of, shown

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 250_000
"""Values in one document, all levels together."""
MAX_WHOLE = 2**63 - 1
_JSON_TYPES = (str, int, float, bool, type(None))


class _Repeated(dict[str, Any]):
    """An object that named keys twice; JSON itself keeps only the last value, which would hide the first."""

    repeated: tuple[str, ...] = ()


def decode(data: bytes | bytearray | memoryview | Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in `data`, or `data` itself when it is one.

    Raises:
        ManifestInvalid: too large, not UTF-8, not JSON (with line and column), not an object, nested too deeply,
            duplicate keys, or strings that cannot be stored.
    """
    value = _parse(bytes(data)) if isinstance(data, bytes | bytearray | memoryview) else data
    if not isinstance(value, Mapping):
        raise _fatal(f"must be a JSON object, not {kind_of(value)}", "type")
    report = Report()
    _inspect(value, report)
    report.raise_problems()
    return dict(value)


def _parse(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise _fatal(f"is larger than {MAX_BYTES} bytes", "too_large")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise _fatal(f"is not UTF-8 at line {line}, column {column}", "encoding") from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_float)
    except json.JSONDecodeError as error:
        raise _fatal(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", "syntax") from None
    except RecursionError:
        raise _fatal(f"is nested deeper than {MAX_DEPTH} levels", "too_deep") from None
    except ValueError as error:
        raise _fatal(f"is not JSON: {error}", "syntax") from None


def _fatal(message: str, code: str) -> ManifestInvalid:
    return ManifestInvalid(f"{ROOT}: {message}", problems=[Problem(ROOT, code, message)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    counts = Counter(key for key, _ in pairs)
    repeated = _Repeated(made)
    repeated.repeated = tuple(key for key, count in counts.items() if count > 1)
    return repeated


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _inspect(root: Mapping[str, Any], report: Report) -> None:
    pending: list[tuple[Any, str, int]] = [(root, ROOT, 0)]
    count = 0
    while pending:
        value, path, depth = pending.pop()
        count += 1
        if count > MAX_VALUES:
            report.refuse(ROOT, "too_large", f"holds more than {MAX_VALUES} values")
            return
        if depth > MAX_DEPTH:
            report.refuse(ROOT, "too_deep", f"is nested deeper than {MAX_DEPTH} levels")
            return
        if isinstance(value, Mapping):
            if isinstance(value, _Repeated):
                for key in value.repeated:
                    report.refuse(join(path, key), "duplicate_key", "this key is written twice in the same object")
            for key, item in reversed(list(value.items())):
                if isinstance(key, str):
                    _inspect_text(key, path, "a key", report)
                    pending.append((item, join(path, key), depth + 1))
                else:
                    report.refuse(path, "type", f"the key {shown(key)} is not a string")
        elif isinstance(value, list | tuple):
            pending.extend((item, join(path, index), depth + 1) for index, item in reversed(list(enumerate(value))))
        elif isinstance(value, str):
            _inspect_text(value, path, "the string", report)
        elif not isinstance(value, _JSON_TYPES):
            report.refuse(path, "type", f"{type(value).__name__} is no JSON value")
        elif isinstance(value, float) and not math.isfinite(value):
            report.refuse(path, "type", f"{value} is no JSON number")
        elif isinstance(value, int) and not -MAX_WHOLE - 1 <= value <= MAX_WHOLE:
            report.refuse(path, "range", "this whole number does not fit 64 bits")


def _inspect_text(text: str, path: str, what: str, report: Report) -> None:
    if "\x00" in text:
        report.refuse(path, "text", f"{what} holds a NUL character, which PostgreSQL cannot store")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            report.refuse(path, "text", f"{what} holds half of a surrogate pair")
