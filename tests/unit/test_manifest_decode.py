"""Bytes become a JSON object that is safe to walk, or a refusal that says where they broke."""

from __future__ import annotations

import json

import pytest

from metacore.errors import ManifestInvalid
from metacore.manifest import decode as decoding
from metacore.manifest.decode import decode


def refusal(data: bytes | dict[object, object]) -> ManifestInvalid:
    with pytest.raises(ManifestInvalid) as caught:
        decode(data)  # type: ignore[arg-type]
    return caught.value


def test_json_and_an_object_are_the_same() -> None:
    value = {"key": "tickets", "list": [1, 2.5, None, True, "é"]}
    assert decode(json.dumps(value).encode()) == decode(value) == value


def test_a_byte_order_mark_is_no_problem() -> None:
    assert decode(b'\xef\xbb\xbf{"key": "a"}') == {"key": "a"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1,\n  oops}', "not JSON: Expecting property name enclosed in double quotes at line 2, column 3"),
        (b'{"a": 1}}', "not JSON: Extra data at line 1, column 9"),
        (b"", "at line 1, column 1"),
        (b'{"a":\n"x", "b": "\xc3\xa9\xff"}', "not UTF-8 at line 2, column 13"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 99999999999999999999}', "manifest.a: this whole number does not fit 64 bits"),
        (b"[1]", "must be a JSON object, not an array"),
        (b"null", "must be a JSON object, not null"),
        (b'"text"', "must be a JSON object, not a string"),
        (b'{"a": {"b": "\\u0000"}}', "manifest.a.b: the string holds a NUL character"),
        (b'{"a": "\\ud800"}', "manifest.a: the string holds half of a surrogate pair"),
        (b'{"a\\u0000": 1}', "a key holds a NUL character"),
        (b"[" * 200_000, "nested deeper than 64 levels"),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "nested deeper than 64 levels"),
        (b'{"a": ' + b"9" * 6_000 + b"}", "is not JSON"),
    ],
)
def test_what_is_not_a_safe_object_is_refused_with_its_place(data: bytes, words: str) -> None:
    assert words in str(refusal(data))


def test_a_key_written_twice_is_refused_wherever_it_stands() -> None:
    error = refusal(b'{"key": "a", "models": [{"t": 1, "t": 2, "u": 3}], "key": "b"}')
    assert [(problem.field, problem.code) for problem in error.problems] == [
        ("manifest.key", "duplicate_key"),
        ("manifest.models[0].t", "duplicate_key"),
    ]


def test_size_and_number_of_values_are_bounded() -> None:
    assert "larger than" in str(refusal(b" " * (decoding.MAX_BYTES + 1)))
    assert "more than" in str(refusal(b'{"a": [' + b"0," * decoding.MAX_VALUES + b"0]}"))


def test_objects_that_are_no_json_are_refused() -> None:
    assert "object is no JSON value" in str(refusal({"a": object()}))
    assert "is not a string" in str(refusal({1: "a"}))
    assert "nan is no JSON number" in str(refusal({"a": float("nan")}))
