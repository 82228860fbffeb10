"""Parameters of a tool against its `input_schema`. Pure.

Two forms are read: a list of fields `{name|key, type, required, options|enum, default}`, and an object of JSON Schema,
of which `type`, `properties`, `required`, `additionalProperties`, `items`, `enum`, `minimum`, `maximum`, `minLength`,
`maxLength`, `minItems`, `maxItems` and `default` count. Neither patterns nor references are followed: an addon's
pattern could hold up the kernel, and its reference could lead anywhere; what else a schema says is for the tool itself
to check.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metacore.errors import Problem

MAX_PROBLEMS: Final = 50
MAX_DEPTH: Final = 32

_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "string": ((str,), "a string"),
    "number": ((int, float), "a number"),
    "integer": ((int,), "a whole number"),
    "boolean": ((bool,), "true or false"),
    "array": ((list,), "an array"),
    "object": ((dict,), "an object"),
    "null": ((type(None),), "null"),
}
_WORDS: Final[Mapping[str, str]] = {
    "text": "string",
    "textarea": "string",
    "email": "string",
    "url": "string",
    "uuid": "string",
    "date": "string",
    "datetime": "string",
    "select": "string",
    "password": "string",
    "int": "integer",
    "float": "number",
    "decimal": "number",
    "bool": "boolean",
    "json": "object",
    "list": "array",
}


def json_schema(written: Any) -> Mapping[str, Any]:
    """The schema as an object of JSON Schema; a list of fields takes no others."""
    if isinstance(written, Mapping):
        return written if "properties" in written or "type" in written else {"type": "object", "properties": written}
    fields = [item for item in written or () if isinstance(item, Mapping)]
    if not fields:
        return {"type": "object"}
    return {
        "type": "object",
        "properties": {_name(item): _field(item) for item in fields},
        "required": [_name(item) for item in fields if item.get("required") is True],
        "additionalProperties": False,
    }


def checked(schema: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The parameters with the defaults of properties that are missing, and what is wrong with them."""
    problems: list[Problem] = []
    filled = dict(params)
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        if name not in filled and isinstance(inner, Mapping) and inner.get("default") is not None:
            filled[name] = inner["default"]
    _check(schema, filled, "", problems, 0)
    return filled, problems[:MAX_PROBLEMS]


def _check(schema: Mapping[str, Any], value: Any, path: str, problems: list[Problem], depth: int) -> None:
    def wrong(code: str, message: str) -> None:
        problems.append(Problem(path or "params", code, f"{path or 'params'} {message}"))

    if len(problems) >= MAX_PROBLEMS or depth > MAX_DEPTH:
        return
    kinds = [_WORDS.get(kind, kind) for kind in _listed(schema.get("type"))]
    if kinds and not any(_is(kind, value) for kind in kinds):
        wrong("type", f"must be {' or '.join(_TYPES[kind][1] for kind in kinds if kind in _TYPES)}")
        return
    choices = schema.get("enum")
    if isinstance(choices, Sequence) and not isinstance(choices, str) and value not in choices:
        wrong("choice", f"must be one of {', '.join(str(choice)[:64] for choice in choices[:20])}")
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        _bounds(schema, value, ("minimum", "maximum"), "", wrong)
    elif isinstance(value, str):
        _bounds(schema, len(value), ("minLength", "maxLength"), " characters", wrong)
        if _listed(schema.get("type")) == ["date"] and not _is_date(value):
            wrong("date", "must be a date such as 2026-01-31")
    elif isinstance(value, list):
        _bounds(schema, len(value), ("minItems", "maxItems"), " items", wrong)
        items = schema.get("items")
        if isinstance(items, Mapping):
            for index, item in enumerate(value):
                _check(items, item, f"{path}[{index}]", problems, depth + 1)
    elif isinstance(value, Mapping):
        _members(schema, value, path, problems, depth)


def _members(
    schema: Mapping[str, Any], value: Mapping[str, Any], path: str, problems: list[Problem], depth: int
) -> None:
    declared = schema.get("properties")
    properties: Mapping[str, Any] = declared if isinstance(declared, Mapping) else {}
    places = [
        _join(path, name)
        for name in _listed(schema.get("required"))
        if value.get(name) is None and not (name in value and _nullable(properties.get(name)))
    ]
    problems += [Problem(place, "required", f"{place} is required") for place in places]
    for name, item in value.items():
        inner = properties.get(name)
        if isinstance(inner, Mapping):
            if item is not None:
                _check(inner, item, _join(path, name), problems, depth + 1)
        elif schema.get("additionalProperties") is False:
            place = _join(path, str(name)[:64])
            problems.append(Problem(place, "unknown", f"{place} is not a parameter of this tool"))


def _nullable(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (not schema.get("type") or "null" in _listed(schema.get("type")))


def _bounds(schema: Mapping[str, Any], value: float, names: tuple[str, str], unit: str, wrong: Any) -> None:
    low, high = schema.get(names[0]), schema.get(names[1])
    if isinstance(low, int | float) and value < low:
        wrong("minimum", f"must be at least {low}{unit}")
    if isinstance(high, int | float) and value > high:
        wrong("maximum", f"must be at most {high}{unit}")


def _is(kind: str, value: Any) -> bool:
    types = _TYPES.get(kind, ((object,), ""))[0]
    if isinstance(value, bool):
        return bool in types or object in types
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, types)


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10


def _field(item: Mapping[str, Any]) -> dict[str, Any]:
    options = item.get("options") or item.get("enum")
    kept = {name: value for name, value in item.items() if name not in ("options", "enum", "required")}
    kept.setdefault("type", "string")
    if item.get("default_value") is not None:
        kept.setdefault("default", item["default_value"])
    if isinstance(options, Sequence) and not isinstance(options, str):
        kept["enum"] = [choice.get("value") if isinstance(choice, Mapping) else choice for choice in options]
    return kept


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("name") or item.get("key") or "")


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, Sequence) else []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
