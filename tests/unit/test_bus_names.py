"""Names of canonical events, and the patterns that reach them."""

from __future__ import annotations

import pytest

from metacore.events.canonical import Verb, check_name, check_pattern, event_type, patterns_of


def test_a_canonical_event_names_addon_model_and_verb() -> None:
    assert event_type("helpdesk", "tickets", "created") == "helpdesk.tickets.created"
    assert event_type("kernel", "Product", Verb.DELETED) == "kernel.Product.deleted"


def test_an_unknown_verb_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="removed"):
        event_type("helpdesk", "tickets", "removed")


def test_every_canonical_name_is_a_valid_one() -> None:
    for verb in Verb:
        name = event_type("a" * 48, "M" * 64, verb)
        assert check_name(name) == name


def test_patterns_of_a_name_are_those_that_subscribe_accepts() -> None:
    patterns = patterns_of("a.b.c")
    assert set(patterns) == {"a.b.c", "a.b.*", "a.*", "*"}
    assert len(patterns) == len(set(patterns))
    for pattern in patterns:
        check_pattern(pattern)
