"""The smallest change of a manifest that makes an addon clean."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.grants import Grants
from metacore.capabilities.suggest import REASON, suggest
from metacore.capabilities.tally import OTHERS
from metacore.capabilities.violations import ViolationSum
from metacore.capabilities.window import parse_since
from metacore.errors import InvalidInput
from metacore.manifest.capabilities import target_problem
from metacore.manifest.model import Capability

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def seen(kind: str, target: str, *, addon: str = "shop", forbidden: bool = False, count: int = 1) -> ViolationSum:
    return ViolationSum(addon, kind, target, forbidden, count, 0, 1, NOON, NOON)


def capabilities(*several: tuple[str, str]) -> list[Capability]:
    return [Capability(kind=kind, target=target) for kind, target in several]


def pairs(several: Sequence[Capability]) -> list[tuple[str, str]]:
    return [(item.kind, item.target) for item in several]


def test_each_target_is_asked_for_as_it_was_used_with_a_reason_to_fill_in() -> None:
    found = suggest(
        "shop",
        [
            seen("http:fetch", "api.example.com:8443"),
            seen("db:read", "addon_crm.contacts"),
            seen("db:write", "addon_crm.contacts"),
            seen("db:read", "addon_crm.deals", addon="other"),
        ],
        [],
        [],
    )
    assert pairs(found.add) == [
        ("db:read", "addon_crm.contacts"),
        ("db:write", "addon_crm.contacts"),
        ("http:fetch", "api.example.com:8443"),
    ]
    assert {item.reason for item in found.add} == {REASON}
    assert not found.accept and not found.left_out and not found.clean


def test_what_is_granted_by_now_is_not_asked_for_again() -> None:
    granted = capabilities(("db:read", "addon_crm.*"), ("http:fetch", "*.example.com"))
    recorded = [seen("db:read", "addon_crm.contacts"), seen("http:fetch", "api.example.com")]
    assert suggest("shop", recorded, granted, []).clean
    assert suggest("shop", [], [], []).clean


def test_what_the_manifest_declares_only_has_to_be_accepted() -> None:
    declared = capabilities(("db:read", "addon_crm.*"), ("event:emit", "shop.*"))
    found = suggest("shop", [seen("db:read", "addon_crm.contacts"), seen("event:emit", "billing.paid")], [], declared)
    assert pairs(found.accept) == [("db:read", "addon_crm.*")]
    assert pairs(found.add) == [("event:emit", "billing.paid")]


def test_a_pattern_stands_for_the_events_that_came_through_it() -> None:
    events = [seen("event:subscribe", name) for name in ("orders.paid", "orders.*", "orders.line.added", "crm.won")]
    assert pairs(suggest("shop", events, [], []).add) == [
        ("event:subscribe", "crm.won"),
        ("event:subscribe", "orders.*"),
    ]


@pytest.mark.parametrize(
    ("kind", "target", "why"),
    [
        ("db:read", "metacore_addons", "the kernel's own"),
        ("db:write", "users", "the kernel's own"),
        ("db:read", "auth_sessions", "the kernel's own"),
        ("db:read", "organizations", "the kernel's own"),
        ("db:read", "pg_catalog.pg_authid", "PostgreSQL's own"),
        ("db:read", "information_schema.tables", "PostgreSQL's own"),
        ("db:read", "addon_crm_bbbbbbbb.contacts", "another organization's schema"),
        ("http:fetch", "169.254.169.254", "is an address"),
        ("http:fetch", "localhost:8000", "two labels"),
        ("http:fetch", "[::1]:443", "no port"),
        ("db:drop", "addon_crm.contacts", "is not a capability"),
        ("event:emit", OTHERS, "too many different targets"),
        ("db:read", "", "is required"),
    ],
)
def test_what_no_manifest_can_ask_for_is_told_with_its_reason(kind: str, target: str, why: str) -> None:
    found = suggest("shop", [seen(kind, target, count=3)], [], [])
    assert not found.add
    assert [(item.kind, item.target, item.count, why in item.why) for item in found.left_out] == [
        (kind, target, 3, True)
    ]


def test_a_host_that_was_blocked_is_never_asked_for_even_when_it_also_lacked_a_grant() -> None:
    found = suggest(
        "shop",
        [seen("http:fetch", "inside.example.com", count=2), seen("http:fetch", "inside.example.com", forbidden=True)],
        [],
        [],
    )
    assert not found.add
    assert [(item.target, item.count) for item in found.left_out] == [("inside.example.com", 3)]


def test_a_secret_column_stays_refused_and_the_table_of_users_can_be_granted() -> None:
    recorded = [seen("db:read", "users", forbidden=True), seen("db:read", "users.password_hash", forbidden=True)]
    found = suggest("shop", recorded, [], [])
    assert pairs(found.add) == [("db:read", "users")]
    assert [item.target for item in found.left_out] == ["users.password_hash"]
    granted = suggest("shop", recorded, found.add, found.add)
    assert not granted.add and not granted.accept
    assert [item.target for item in granted.left_out] == ["users.password_hash"]


LABEL = st.from_regex(r"\A[a-z][a-z0-9_]{0,6}\Z")
TARGETS = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.lists(LABEL, min_size=1, max_size=3).map(lambda parts: ".".join(parts) + ".*"),
    st.text(max_size=12),
    st.just("*"),
)
RECORDED = st.lists(
    st.builds(
        seen, st.sampled_from([*(kind.value for kind in CapabilityKind), "db:drop"]), TARGETS, forbidden=st.booleans()
    ),
    max_size=12,
)
DECLARED = st.lists(
    st.builds(Capability, kind=st.sampled_from([kind.value for kind in CapabilityKind]), target=TARGETS), max_size=4
)


@given(RECORDED, DECLARED)
def test_with_the_suggestion_granted_only_what_was_left_out_is_left(
    recorded: list[ViolationSum], declared: list[Capability]
) -> None:
    found = suggest("shop", recorded, [], declared)
    for item in found.add:
        assert target_problem(item.kind, item.target) == ""
        assert (item.kind, item.target) in {(one.kind, one.target) for one in recorded}
    after = suggest("shop", recorded, [*found.add, *found.accept], [*declared, *found.add])
    assert not after.add and not after.accept
    assert set(after.left_out) <= set(found.left_out)
    # None of it is superfluous.
    for item in found.add:
        rest = [*(other for other in found.add if other != item), *found.accept]
        assert not Grants("shop", rest).cover(item.kind, item.target, None)


def test_windows() -> None:
    assert parse_since("90m", NOON) == NOON - datetime.timedelta(minutes=90)
    assert parse_since(" 24h ", NOON) == NOON - datetime.timedelta(hours=24)
    assert parse_since("2w", NOON) == NOON - datetime.timedelta(weeks=2)
    assert parse_since("2026-03-01T09:00:00+01:00", NOON) == NOON - datetime.timedelta(hours=4)
    for text in ("", "24", "h", "-1h", "1.5h", "0d", "24H ago", "2026-03-01", "9999999w", "2026-03-01T09:00:00"):
        with pytest.raises(InvalidInput, match="since"):
            parse_since(text, NOON)
