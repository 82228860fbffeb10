"""From JSON and from text to what a column holds: strict, and never a value that the database would change."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.db.catalog import StoredColumn
from metacore.dynamic.shape import ColumnShape, Kind, kind_of
from metacore.dynamic.values import BadValue, read_text, read_value, text_of

UTC = datetime.UTC


def column(kind: Kind, **details: Any) -> ColumnShape:
    return ColumnShape(name="c", kind=kind, stored=StoredColumn("c", kind.value), declared=None, **details)


REFERENCE = "6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10"


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        (Kind.STRING, "", ""),
        (Kind.TEXT, "übel\n", "übel\n"),
        (Kind.UUID, REFERENCE, uuid.UUID(REFERENCE)),
        (Kind.UUID, uuid.UUID(REFERENCE), uuid.UUID(REFERENCE)),
        (Kind.INT, 7, 7),
        (Kind.INT, 7.0, 7),
        (Kind.DECIMAL, 0.1, Decimal("0.1")),
        (Kind.DECIMAL, 3, Decimal(3)),
        (Kind.DECIMAL, "12345678901234.5678", Decimal("12345678901234.5678")),
        (Kind.FLOAT, 3, 3.0),
        (Kind.BOOL, False, False),
        (Kind.INSTANT, "2026-01-31T12:00:00Z", datetime.datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (Kind.INSTANT, "2026-01-31t12:00:00.123456789z", datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)),
        (Kind.INSTANT, "2026-01-31 12:00:00+0530", datetime.datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        (Kind.INSTANT, "2026-01-31T12:00", datetime.datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (Kind.CLOCK, "2026-01-31", datetime.datetime(2026, 1, 31, tzinfo=UTC)),
        (Kind.DATE, "2024-02-29", datetime.date(2024, 2, 29)),
        (Kind.JSON, {"a": [None]}, {"a": [None]}),
        (Kind.JSON, "a\\u0000b", "a\\u0000b"),
        (Kind.OTHER, ["a"], ["a"]),
    ],
)
def test_good_values_are_read(kind: Kind, raw: Any, expected: Any) -> None:
    value = read_value(column(kind), raw)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "raw", "code"),
    [
        (Kind.STRING, 5, "type"),
        (Kind.STRING, "a\x00b", "invalid_character"),
        (Kind.TEXT, "\ud800", "invalid_character"),
        (Kind.UUID, REFERENCE.replace("-", ""), "type"),
        (Kind.UUID, "{" + REFERENCE[:34] + "}", "type"),
        (Kind.UUID, 5, "type"),
        (Kind.INT, True, "type"),
        (Kind.INT, 1.5, "type"),
        (Kind.INT, "1", "type"),
        (Kind.INT, 2**63, "out_of_range"),
        (Kind.INT, -(2**63) - 1, "out_of_range"),
        (Kind.DECIMAL, True, "type"),
        (Kind.DECIMAL, float("nan"), "type"),
        (Kind.DECIMAL, float("-inf"), "type"),
        (Kind.DECIMAL, "NaN", "type"),
        (Kind.DECIMAL, "1_000", "type"),
        (Kind.DECIMAL, "٣", "type"),
        (Kind.DECIMAL, [], "type"),
        (Kind.FLOAT, float("inf"), "type"),
        (Kind.FLOAT, 10**400, "type"),
        (Kind.FLOAT, "1.5", "type"),
        (Kind.BOOL, 1, "type"),
        (Kind.BOOL, "true", "type"),
        (Kind.INSTANT, "2026-02-30T00:00:00Z", "type"),
        (Kind.INSTANT, "2026-W05-1", "type"),
        (Kind.INSTANT, "20260131", "type"),
        (Kind.INSTANT, "0001-01-01T00:00:00+01:00", "type"),
        (Kind.INSTANT, "infinity", "type"),
        (Kind.INSTANT, 1700000000, "type"),
        (Kind.DATE, "2026-02-29", "type"),
        (Kind.DATE, "2026-02-28T00:00:00Z", "type"),
        (Kind.DATE, datetime.datetime(2026, 1, 1, tzinfo=UTC), "type"),
        (Kind.JSON, {"a": "b\x00"}, "invalid_character"),
        (Kind.JSON, ["\x00"], "invalid_character"),
        (Kind.JSON, {"a\x00": 1}, "invalid_character"),
        (Kind.JSON, 2**70, "type"),
        (Kind.OTHER, "\x00", "invalid_character"),
    ],
)
def test_bad_values_are_refused_with_a_code(kind: Kind, raw: Any, code: str) -> None:
    with pytest.raises(BadValue) as refused:
        read_value(column(kind), raw)
    assert refused.value.code == code


def test_texts_are_bounded_by_the_columns_size_in_characters() -> None:
    sized = column(Kind.STRING, size=3)
    assert read_value(sized, "üüü") == "üüü"
    with pytest.raises(BadValue) as refused:
        read_value(sized, "abcd")
    assert refused.value.code == "too_long"


@pytest.mark.parametrize(("bits", "largest"), [(16, 32_767), (32, 2_147_483_647), (64, 2**63 - 1)])
def test_integers_are_bounded_by_the_columns_width(bits: int, largest: int) -> None:
    narrow = column(Kind.INT, bits=bits)
    assert read_value(narrow, largest) == largest
    assert read_value(narrow, -largest - 1) == -largest - 1
    for number in (largest + 1, -largest - 2):
        with pytest.raises(BadValue):
            read_value(narrow, number)


def test_decimals_are_rounded_to_the_scale_and_bounded_by_the_precision() -> None:
    money = column(Kind.DECIMAL, precision=6, scale=2)
    assert read_value(money, 0.005) == Decimal("0.01")
    assert read_value(money, -0.005) == Decimal("-0.01")
    assert read_value(money, 9999.99) == Decimal("9999.99")
    for number in (9999.995, 10_000, -10_000, 1e300):
        with pytest.raises(BadValue) as refused:
            read_value(money, number)
        assert refused.value.code == "out_of_range"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Kind.INT, "-12", -12),
        (Kind.DECIMAL, "1e3", Decimal(1000)),
        (Kind.FLOAT, ".5", 0.5),
        (Kind.BOOL, "True", True),
        (Kind.BOOL, "0", False),
        (Kind.DATE, "2026-01-31", datetime.date(2026, 1, 31)),
        (Kind.OTHER, "10.0.0.1", "10.0.0.1"),
    ],
)
def test_text_of_a_query_is_read_by_the_columns_type(kind: Kind, text: str, expected: Any) -> None:
    assert read_text(column(kind), text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.INT, "1.0"),
        (Kind.INT, "٣"),
        (Kind.INT, "9" * 5000),
        (Kind.DECIMAL, "inf"),
        (Kind.DECIMAL, "1e99999"),
        (Kind.BOOL, "maybe"),
        (Kind.UUID, "x"),
        (Kind.DATE, "today"),
        (Kind.TEXT, "a\x00"),
    ],
)
def test_text_of_a_query_that_means_nothing_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(BadValue):
        read_text(column(kind), text)


@given(
    st.one_of(
        st.tuples(st.just(Kind.INT), st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just(Kind.DECIMAL), st.decimals(allow_nan=False, allow_infinity=False, min_value=-1, max_value=1)),
        st.tuples(st.just(Kind.BOOL), st.booleans()),
        st.tuples(st.just(Kind.INSTANT), st.datetimes(timezones=st.just(UTC))),
        st.tuples(st.just(Kind.DATE), st.dates()),
        st.tuples(st.just(Kind.UUID), st.uuids()),
        st.tuples(st.just(Kind.TEXT), st.text(st.characters(exclude_categories=["Cs"], exclude_characters=["\x00"]))),
    )
)
def test_what_a_cursor_writes_is_read_back(sample: tuple[Kind, Any]) -> None:
    kind, value = sample
    assert read_text(column(kind), text_of(value)) == value


@given(st.none() | st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
def test_no_input_breaks_a_reader(raw: Any) -> None:
    for kind in Kind:
        try:
            read_value(column(kind, precision=6 if kind is Kind.DECIMAL else None, scale=2), raw)
        except BadValue as error:
            assert error.code in {"type", "too_long", "out_of_range", "invalid_character"}


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        ("character varying(255)", Kind.STRING),
        ("character varying", Kind.STRING),
        ("timestamp(3) without time zone", Kind.CLOCK),
        ("timestamp with time zone", Kind.INSTANT),
        ("numeric(18,4)", Kind.DECIMAL),
        ("NUMERIC(18, 4)", Kind.DECIMAL),
        ("double precision", Kind.FLOAT),
        ("CHAR(32)", Kind.UUID),
        ("character(32)", Kind.STRING),
        ("text[]", Kind.OTHER),
        ("inet", Kind.OTHER),
        ("jsonb", Kind.JSON),
    ],
)
def test_stored_types_are_recognised_however_they_are_spelled(spelled: str, kind: Kind) -> None:
    assert kind_of(spelled) is kind


def test_json_that_is_nested_too_deeply_is_told_so() -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(BadValue, match="at most 254 levels"):
        read_value(column(Kind.JSON), deep)
