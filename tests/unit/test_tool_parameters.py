"""Parameters of tools: both forms of a schema, every problem by its place, and nothing that a schema could do to us."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.addons.tools.parameters import checked, json_schema

FIELDS = [
    {"name": "city", "type": "string", "required": True, "maxLength": 20, "description": "where"},
    {"name": "days", "type": "int", "default": 3, "minimum": 1, "maximum": 14},
    {"key": "unit", "type": "select", "options": [{"value": "c", "label": "Celsius"}, "f"]},
    {"name": "since", "type": "date"},
]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "points": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
        "mode": {"type": ["string", "null"], "enum": ["fast", None]},
        "ratio": {"type": "number", "minimum": 0.5},
        "exact": {"type": "boolean", "default": False},
    },
    "required": ["city"],
}


def problems(schema: Any, params: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem.field, problem.code) for problem in checked(json_schema(schema), params)[1]]


def test_fields_become_a_schema_that_takes_no_others() -> None:
    schema = json_schema(FIELDS)
    assert schema["required"] == ["city"]
    assert schema["properties"]["unit"]["enum"] == ["c", "f"]
    assert checked(schema, {"city": "Lima"}) == ({"city": "Lima", "days": 3}, [])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [("city", "required")]),
        ({"city": None}, [("city", "required")]),
        ({"city": 5}, [("city", "type")]),
        ({"city": "x" * 21}, [("city", "maximum")]),
        ({"city": "a", "days": 0}, [("days", "minimum")]),
        ({"city": "a", "days": 15}, [("days", "maximum")]),
        ({"city": "a", "days": 1.5}, [("days", "type")]),
        ({"city": "a", "days": True}, [("days", "type")]),
        ({"city": "a", "days": "3"}, [("days", "type")]),
        ({"city": "a", "unit": "k"}, [("unit", "choice")]),
        ({"city": "a", "since": "yesterday"}, [("since", "date")]),
        ({"city": "a", "since": "2026-02-30"}, [("since", "date")]),
        ({"city": "a", "other": 1}, [("other", "unknown")]),
        ({"city": "a", "days": 2.0, "unit": "f", "since": "2026-02-28"}, []),
    ],
)
def test_fields_hold_parameters_to_what_they_say(params: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(FIELDS, params) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"city": ""}, [("city", "minimum")]),
        ({"city": "a", "points": [{"x": 1}, {"x": "y"}]}, [("points[1].x", "type")]),
        ({"city": "a", "points": [{}, {}, {}]}, [("points", "maximum")]),
        ({"city": "a", "points": {}}, [("points", "type")]),
        ({"city": "a", "mode": "slow"}, [("mode", "choice")]),
        ({"city": "a", "ratio": 0.1}, [("ratio", "minimum")]),
        ({"city": "a", "mode": None, "anything": [1]}, []),
    ],
)
def test_an_object_of_json_schema_is_followed(params: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(SCHEMA, params) == expected


def test_no_schema_takes_anything() -> None:
    empty: tuple[Any, ...] = (None, [], {}, ())
    for nothing in empty:
        assert checked(json_schema(nothing), {"a": 1}) == ({"a": 1}, [])


def test_a_schema_cannot_make_the_kernel_work_or_look_elsewhere() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    value: dict[str, Any] = {}
    for _ in range(200):
        value = {"a": value}
    assert problems(deep, value) == []
    hostile = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "(a+)+$"}, "b": {"$ref": "http://127.0.0.1/"}},
    }
    assert problems(hostile, {"a": "a" * 40 + "!", "b": 1}) == []
    many = {"type": "array", "items": {"type": "string"}}
    found = problems({"type": "object", "properties": {"a": many}}, {"a": list(range(1_000))})
    assert len(found) == 50


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    )
)
def test_any_schema_and_any_parameters_get_an_answer(anything: Any) -> None:
    params = anything if isinstance(anything, dict) else {"a": anything}
    for schema in (SCHEMA, FIELDS, anything if isinstance(anything, dict | list) else None):
        checked(json_schema(schema), params)
