"""Formulas and constraints: what parses, what it computes, and the same as SQL."""

from __future__ import annotations

import datetime
import sqlite3
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.errors import InvalidInput
from metacore.manifest.expressions import MAX_DEPTH, MAX_LENGTH, parse_expression

COLUMNS = frozenset({"a", "b", "c"})


def value(text: str, **row: Any) -> Decimal | bool | None:
    return parse_expression(text, COLUMNS).evaluate(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 4 - 3", "3"),
        ("24 / 4 / 2", "3"),
        ("7 / 2", "3.5"),
        ("-a + 5", "3"),
        ("- (a + b)", "-5"),
        ("--a", "2"),
        ("+a", "2"),
        ("a*-b", "-6"),
        (".5 * a", "1"),
        ("0.1 + 0.2", "0.3"),
        ("a", "2"),
        ("((((a))))", "2"),
    ],
)
def test_arithmetic(text: str, expected: str) -> None:
    assert value(text, a=2, b=3) == Decimal(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a >= 0", True),
        ("a > b", False),
        ("a + 1 = b", True),
        ("a == 2", True),
        ("a != b", True),
        ("a <> a", False),
        ("a * b <= 6", True),
        ("a < b", True),
    ],
)
def test_comparisons(text: str, expected: bool) -> None:
    found = parse_expression(text, COLUMNS)
    assert found.is_comparison
    assert found.evaluate({"a": 2, "b": 3}) is expected


@pytest.mark.parametrize(
    "row",
    [{}, {"a": None}, {"a": "two"}, {"a": True}, {"a": float("nan")}, {"a": Decimal("Infinity")}, {"a": [1]}],
)
def test_what_is_no_number_makes_the_result_unknown(row: dict[str, Any]) -> None:
    assert parse_expression("a + 1", COLUMNS).evaluate(row) is None
    assert parse_expression("a >= 1", COLUMNS).evaluate(row) is None


def test_division_by_zero_is_unknown_not_an_error() -> None:
    assert value("1 / a", a=0) is None
    assert value("1 / (a - a) > 0", a=4) is None
    assert value("0 / 0") is None


def test_a_result_beyond_all_numbers_is_unknown() -> None:
    assert value("a * a", a=Decimal("1e800")) is None


@pytest.mark.parametrize("given", [2, 2.0, Decimal(2), "2", "2.00"])
def test_numbers_are_read_as_they_come(given: Any) -> None:
    assert value("a * 2", a=given) == 4


def test_two_bare_columns_compare_dates() -> None:
    early, late = datetime.date(2026, 1, 1), datetime.date(2026, 2, 1)
    assert value("a <= b", a=early, b=late) is True
    assert value("a <= b", a=late, b=early) is False
    assert value("a <= b", a=early, b=3) is None


def test_the_columns_of_an_expression_are_known() -> None:
    assert parse_expression("a * (b - a)", COLUMNS).columns == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a +",
        "* a",
        "a b",
        "1 2",
        "(a",
        "a)",
        "()",
        "a ** b",
        "a // b",
        "a % b",
        "a; b",
        "a, b",
        "f(a)",
        "a.b",
        "'text'",
        '"a"',
        "a < b < c",
        "(a < b)",
        "a and b",
        "a => b",
        "not a",
        "unknown + 1",
        "A + 1",
        "1e5",
        "0x10",
        "a -- comment",
        "a /* c */",
        "1.",
        "a\x00",
        "é",
        "a or 1=1",
        "a::int",
        "$1",
    ],
)
def test_nothing_else_parses(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_expression(text, COLUMNS)


def test_refusals_say_where() -> None:
    with pytest.raises(InvalidInput, match="'%' at position 3"):
        parse_expression("a % b", COLUMNS)
    with pytest.raises(InvalidInput, match="'unknown' is not a column"):
        parse_expression("a + unknown", COLUMNS)
    with pytest.raises(InvalidInput, match="ends too early"):
        parse_expression("a +", COLUMNS)


def test_length_depth_and_parts_are_bounded() -> None:
    for text in ("a" * (MAX_LENGTH + 1), "(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "-" * 60 + "a"):
        with pytest.raises(InvalidInput):
            parse_expression(text, {"a", "a" * (MAX_LENGTH + 1)})
    with pytest.raises(InvalidInput, match="parts"):
        parse_expression("+".join(["a"] * 200), COLUMNS)
    assert parse_expression("+".join(["a"] * 100), COLUMNS).evaluate({"a": 1}) == 100


def test_the_kind_of_expression_can_be_asked_for() -> None:
    with pytest.raises(InvalidInput, match="comparison is not allowed"):
        parse_expression("a > 1", COLUMNS, comparison=False)
    with pytest.raises(InvalidInput, match="must be a comparison"):
        parse_expression("a + 1", COLUMNS, comparison=True)


arithmetic = st.recursive(
    st.sampled_from(["a", "b", "c", "0", "1", "2.5", "7"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=12,
)
numbers = st.integers(-50, 50)


@given(arithmetic, numbers, numbers, numbers)
def test_sql_computes_the_same(text: str, a: int, b: int, c: int) -> None:
    found = parse_expression(text, COLUMNS)
    sql = found.to_sql(lambda name: f'"{name}"')
    connection = sqlite3.connect(":memory:")
    try:
        (stored,) = connection.execute(
            f"select {sql} from (select ? as a, ? as b, ? as c)",
            (a, b, c),
        ).fetchone()
    finally:
        connection.close()
    computed = found.evaluate({"a": a, "b": b, "c": c})
    if computed is None or stored is None:
        assert computed is None and stored is None
    else:
        assert float(computed) == pytest.approx(float(stored), rel=1e-9, abs=1e-9)


@given(st.text(alphabet="abc012.+-*/()<>=! ", max_size=60), numbers)
def test_no_text_breaks_the_parser(text: str, a: int) -> None:
    try:
        found = parse_expression(text, COLUMNS)
    except InvalidInput:
        return
    assert found.evaluate({"a": a, "b": 0, "c": None}) is not NotImplemented
    assert set(found.to_sql(lambda name: f'"{name}"')) <= set('abcnulif012456789.+-*/()<>=, "')


def test_sql_quotes_every_column_and_survives_a_zero() -> None:
    found = parse_expression("a / b >= 2", COLUMNS)
    assert found.to_sql(lambda name: f'"{name}"') == '("a" * 1.0 / nullif("b", 0)) >= 2'
