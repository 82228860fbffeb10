"""Whether a value may be that of a setting: the same answer for the API, an Addon and a host."""

from __future__ import annotations

from typing import Any

import orjson

from metacore.errors import Problem
from metacore.manifest.model import Setting

MAX_VALUE_BYTES = 65_536
WHOLE_TYPES = frozenset({"integer", "int"})
NUMBER_TYPES = frozenset({"number", "decimal", "float"}) | WHOLE_TYPES
BOOL_TYPES = frozenset({"bool", "boolean", "checkbox", "switch"})
JSON_TYPES = frozenset({"json", "object", "array"})
MANY = "multi_select"
"""The type whose values are arrays of options."""


def is_text(setting: Setting) -> bool:
    """Whether its values are strings."""
    return setting.type.lower() not in NUMBER_TYPES | BOOL_TYPES | JSON_TYPES | {MANY}


def problem_of(
    setting: Setting | None, name: str, value: Any, *, what: str = "a setting of this addon"
) -> Problem | None:
    """What is wrong with one value, or None. The value itself is never told: it may be a secret. `what` says what
    `name` should be one of."""
    if setting is None:
        return Problem(name[:64], "unknown_setting", f"{name[:64]!r} is not {what}")
    if value is None:
        return None
    kind = setting.type.lower()
    if kind in NUMBER_TYPES:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        expected = "a number"
        if fits and kind in WHOLE_TYPES:
            fits, expected = float(value).is_integer(), "a whole number"
    elif kind in BOOL_TYPES:
        fits, expected = isinstance(value, bool), "true or false"
    elif kind in JSON_TYPES:
        fits, expected = isinstance(value, dict | list), "a JSON object or array"
    else:
        fits, expected = isinstance(value, str), "a string"
    if setting.options:
        many = kind == MANY and isinstance(value, list)
        choices = [option.value for option in setting.options]
        if not all(item in choices for item in (value if many else [value])):
            told = "an array of" if kind == MANY else "one of"
            return Problem(name, "option", f"{name[:64]!r} must be {told} {', '.join(str(each) for each in choices)}")
    if not fits and not setting.options:
        return Problem(name, "type", f"{name!r} must be {expected}")
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return Problem(name, "too_deep", f"{name!r} is nested too deeply")
    if len(encoded) > MAX_VALUE_BYTES:
        return Problem(name, "too_large", f"{name!r} is larger than {MAX_VALUE_BYTES} bytes")
    # Escaped backslashes go first, so that what is left of this form is the character and not text about it.
    if b"\\u0000" in encoded.replace(b"\\\\", b""):
        return Problem(name, "nul", f"{name!r} must not hold the character U+0000")
    return None
