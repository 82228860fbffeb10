"""Capabilities as words: what may be granted, and what a grant allows."""

from __future__ import annotations

import pytest

from metacore.errors import InvalidInput
from metacore.permissions.capabilities import Grants, normalize, parse_capability


@pytest.mark.parametrize(
    ("held", "asked", "allowed"),
    [
        (["tickets.read"], "tickets.read", True),
        (["tickets.read"], "Tickets.read", True),
        (["TICKETS.read"], "tickets.read", True),
        (["tickets.read"], "tickets.create", False),
        (["tickets.read"], "tickets.Read", False),
        (["tickets.read"], "ticket.read", False),
        (["tickets.*"], "tickets.read", True),
        (["tickets.*"], "tickets.close", True),
        (["tickets.*"], "ticketsarchive.read", False),
        (["tickets.*"], "tickets", False),
        (["tickets.read"], "tickets.*", False),
        (["tickets.*"], "tickets.*", True),
        (["tickets.*"], "*", False),
        (["*"], "anything.at_all", True),
        (["*"], "*", True),
        ([], "tickets.read", False),
        (["shop.tickets.*"], "shop.tickets.read", True),
        (["shop.*"], "shop.tickets.read", False),
    ],
)
def test_what_a_grant_allows(held: list[str], asked: str, allowed: bool) -> None:
    assert Grants(held).allow(asked) is allowed


def test_to_cover_others_one_needs_everything_that_they_hold() -> None:
    mine = Grants(["tickets.*", "users.read"])
    assert mine.cover(["tickets.read", "tickets.*", "users.read"])
    assert mine.cover([])
    assert not mine.cover(["tickets.read", "users.update"])
    assert not mine.cover(["*"])
    assert Grants(["*"]).cover(["*", "users.update"])


def test_only_the_resource_is_lower_cased() -> None:
    assert normalize("Tickets.closeAll") == "tickets.closeAll"
    assert normalize("*") == "*"


@pytest.mark.parametrize("text", ["*", "tickets.read", "tickets.*", "shop.tickets.read", " Tickets.read "])
def test_these_may_be_granted(text: str) -> None:
    assert parse_capability(text) == normalize(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tickets",
        ".read",
        "tickets.",
        "*.read",
        "*.*",
        "tickets.re ad",
        "tick/ets.read",
        "x" * 161 + ".read",
        "ü.read",
    ],
)
def test_these_may_not(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_capability(text)
    assert refused.value.problems[0].field == "capability"
