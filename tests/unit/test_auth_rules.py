"""What an account may be called, and that refusals name the rule."""

from __future__ import annotations

import pytest

from metacore.auth import rules
from metacore.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (" Ada@Example.COM ", "ada@example.com"),
        ("admin@localhost", "admin@localhost"),
        ("o'hara+tag@mail.example.co", "o'hara+tag@mail.example.co"),
        ("jürgen@müller.example", "jürgen@müller.example"),
    ],
)
def test_an_email_is_stored_trimmed_and_lower_cased(text: str, stored: str) -> None:
    assert rules.normalize_email(text) == stored


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada lovelace@example.com",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com\x00",
        "ada@exam\nple.com",
        "a\ud800da@example.com",
        "a" * 65 + "@example.com",
        "ada@" + "x" * 251,
    ],
)
def test_what_is_no_email_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        rules.normalize_email(text)
    assert [(problem.field, problem.code) for problem in refused.value.problems] == [("email", "invalid_email")]


@pytest.mark.parametrize("length", [10, 1024])
def test_a_password_of_allowed_length_is_left_untouched(length: int) -> None:
    assert rules.check_password(" " * length) == " " * length


@pytest.mark.parametrize(("length", "rule"), [(0, "at least 10"), (9, "at least 10"), (1025, "at most 1024")])
def test_a_password_out_of_bounds_names_the_rule_and_not_the_password(length: int, rule: str) -> None:
    password = "hunter2hunter2"[:length].ljust(length, "x")
    with pytest.raises(InvalidInput) as refused:
        rules.check_password(password)
    assert rule in refused.value.message
    assert not length or password not in refused.value.message


@pytest.mark.parametrize("text", ["", "   ", "x" * 256, "a\x00b", "a\nb", "\ud800"])
def test_a_name_that_cannot_be_shown_or_stored_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        rules.check_name(text)


def test_a_name_is_trimmed() -> None:
    assert rules.check_name("  Ada Lovelace ") == "Ada Lovelace"


@pytest.mark.parametrize("role", ["owner", "agent", "Night-shift_2", "x" * 64])
def test_hosts_may_add_roles(role: str) -> None:
    assert rules.check_role(role) == role


@pytest.mark.parametrize("role", ["", "1st", "a b", "a.b", "a/b", "x" * 65, "rôle", "owner\n"])
def test_a_role_is_one_plain_word(role: str) -> None:
    with pytest.raises(InvalidInput):
        rules.check_role(role)


@pytest.mark.parametrize("status", ["", "Active", "deleted"])
def test_unknown_statuses_are_refused(status: str) -> None:
    with pytest.raises(InvalidInput, match="active, disabled"):
        rules.check_status(status)
