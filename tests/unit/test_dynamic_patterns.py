"""Regular expressions: the same answers as Python's own engine, and never more than a moment."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.dynamic.patterns import MAX_TEXT, compile_pattern

PATTERNS = [
    r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
    r"^\d{3}-\d{4}$",
    r"(a+)+$",
    r"^(a|aa)+b",
    r"^[A-Z]{1,2}\d{2}[A-Z0-9]?$",
    r"(?i)^ab[c-e]$",
    r"(?s)a.c",
    r"a.c",
    r"x*",
    r"",
    r"ab|ba$",
    r"^\s*$",
    r"[^a-c]d?",
    r"(?:ab){2,3}?c",
    r"a\Z",
    r"^a{0,3}$",
    r"^-?\d+(\.\d+)?$",
    r"(?P<x>a)b",
    r"(a*)*b",
    r"$^",
]


@pytest.mark.parametrize("text", PATTERNS)
@given(st.text("abcdABC019@.- \n", max_size=10))
def test_the_answers_are_those_of_the_standard_engine(text: str, value: str) -> None:
    pattern = compile_pattern(text)
    assert pattern is not None
    assert pattern.search(value) == (re.search(text, value) is not None)


@pytest.mark.parametrize("text", [r"(a+)+$", r"^(a|a)*$", r"(a*)*b", r"(.*)(.*)(.*)(.*)(.*)=$", r"^(\w+\s?)+$"])
def test_patterns_that_kill_a_backtracking_engine_take_a_bounded_number_of_steps(text: str) -> None:
    """Counted in calls, not in seconds: a backtracking engine would need 2 to the power of hundreds."""
    pattern = compile_pattern(text)
    assert pattern is not None
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        assert pattern.search("a" * 2_000 + "!") is False
    finally:
        sys.setprofile(None)
    assert calls < 100_000


@pytest.mark.parametrize("text", [r"((a+)\2)+$", r"(?=(a+)+b)(a*)*", "((", "*", "a" * 2_000, r"(?:a{1000}){1000}\1"])
def test_what_cannot_be_matched_safely_is_not_compiled(text: str) -> None:
    assert compile_pattern(text) is None


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (r"^(?=.*\d)(?=.*[a-z]).{4,}$", "abc1", "abcd"),
        (r"\bfoo\b", "a foo b", "afoob"),
        (r"^(a|b)\1$", "aa", "ab"),
        (r"(?<year>\d{4})\z", "in 2026", "2026 in"),
    ],
)
def test_other_dialects_and_features_work_where_they_are_harmless(text: str, good: str, bad: str) -> None:
    pattern = compile_pattern(text)
    assert pattern is not None
    assert pattern.search(good)
    assert not pattern.search(bad)


def test_texts_are_bounded() -> None:
    pattern = compile_pattern("^a*$")
    assert pattern is not None
    assert pattern.search("a" * MAX_TEXT)
    assert not pattern.search("a" * (MAX_TEXT + 1))
