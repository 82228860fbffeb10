"""What a grant covers: names, prefixes, hosts, and nothing beside them."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.grants import Grants
from metacore.capabilities.targets import canonical, host_target
from metacore.manifest.capabilities import target_problem
from metacore.manifest.model import Capability

ACME = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
GLOBEX = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")


def covered(
    kind: str, granted: str | list[str], target: str, *, addon: str = "shop", organization: uuid.UUID | None = ACME
) -> bool:
    names = [granted] if isinstance(granted, str) else granted
    return Grants(addon, [Capability(kind=kind, target=name) for name in names]).cover(kind, target, organization)


@pytest.mark.parametrize("kind", ["db:read", "db:write"])
@pytest.mark.parametrize(
    ("target", "covers"),
    [
        ("addon_shop.orders", True),
        ("addon_shop_aaaaaaaa.orders", True),
        ("addon_shop_bbbbbbbb.orders", False),
        ("addon_shop", False),
        ("addon_shopping.orders", False),
        ("addon_shop_extra.orders", False),
        ("shop.orders", False),
        ("public.addon_shop", False),
        ("orders", False),
        ("", False),
    ],
)
def test_an_addon_owns_its_schema_and_that_of_the_organization_at_hand(kind: str, target: str, covers: bool) -> None:
    assert covered(kind, [], target) is covers


@pytest.mark.parametrize(
    ("granted", "target", "covers"),
    [
        ("addon_crm.contacts", "addon_crm.contacts", True),
        ("addon_crm.contacts", "addon_crm_aaaaaaaa.contacts", True),
        ("addon_crm.contacts", "addon_crm_bbbbbbbb.contacts", False),
        ("addon_crm.contacts", "addon_crm.contacts2", False),
        ("addon_crm.contacts", "addon_crm.Contacts", False),
        ("addon_crm.*", "addon_crm.contacts", True),
        ("addon_crm.*", "addon_crm_aaaaaaaa.contacts", True),
        ("addon_crm.*", "addon_crm", False),
        ("addon_crm.*", "addon_crm2.contacts", False),
        ("customers", "public.customers", True),
        ("customers", "customers", True),
        ("public.customers", "customers", True),
        ("customers", "other.customers", False),
        ("public.*", "customers", False),
        ("public.*", "public.customers", False),
        ("*", "customers", False),
        ("*", "addon_crm.contacts", False),
    ],
)
def test_a_table_is_covered_by_its_name_or_its_schema(granted: str, target: str, covers: bool) -> None:
    assert covered("db:read", granted, target) is covers
    assert covered("db:write", granted, target) is covers


def test_reading_is_not_writing() -> None:
    grants = Grants("shop", [Capability(kind="db:read", target="addon_crm.contacts")])
    assert grants.cover("db:read", "addon_crm.contacts", ACME)
    assert not grants.cover("db:write", "addon_crm.contacts", ACME)


@pytest.mark.parametrize(
    ("granted", "target", "covers"),
    [
        ("orders.paid", "orders.paid", True),
        ("orders.paid", "orders.paid.twice", False),
        ("orders.*", "orders.paid", True),
        ("orders.*", "orders.invoice.paid", True),
        ("orders.*", "orders", False),
        ("orders.*", "ordersx.paid", False),
        ("orders.*", "orders.*", True),
        ("orders.*", "orders.invoice.*", True),
        ("orders.paid", "orders.*", False),
        ("orders.invoice.*", "orders.*", False),
        ("orders.*", "*", False),
        ("*", "*", True),
        ("*", "orders.paid", True),
    ],
)
@pytest.mark.parametrize("kind", ["event:emit", "event:subscribe"])
def test_events_and_patterns(kind: str, granted: str, target: str, covers: bool) -> None:
    assert covered(kind, granted, target) is covers


@pytest.mark.parametrize(
    ("granted", "target", "covers"),
    [
        ("api.example.com", "api.example.com:443", True),
        ("api.example.com", "api.example.com:80", True),
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.Example.COM.:443", True),
        ("API.example.com", "api.example.com:443", True),
        ("api.example.com", "api.example.com:8443", False),
        ("api.example.com:8443", "api.example.com:8443", True),
        ("api.example.com:8443", "api.example.com:443", False),
        ("api.example.com:8443", "api.example.com", False),
        ("api.example.com:443", "api.example.com:443", True),
        ("api.example.com:443", "api.example.com:80", False),
        ("api.example.com", "example.com:443", False),
        ("api.example.com", "a.api.example.com:443", False),
        ("api.example.com", "api.example.com.evil.org:443", False),
        ("api.example.com", "evil.org:443", False),
        ("*.example.com", "example.com:443", True),
        ("*.example.com", "a.example.com:443", True),
        ("*.example.com", "a.b.example.com:443", True),
        ("*.example.com", "notexample.com:443", False),
        ("*.example.com", "example.com.evil.org:443", False),
        ("*.example.com:8443", "a.example.com:8443", True),
        ("*.example.com:8443", "a.example.com:443", False),
        ("*.com", "example.com:443", False),
        ("*", "example.com:443", False),
        ("*.*", "example.com:443", False),
        ("example", "example:443", False),
        ("10.0.0.1", "10.0.0.1:443", False),
        ("api.example.com", "[::1]:443", False),
        ("api.example.com", "api.example.com:99999999", False),
        ("api.example.com", "api.example.com:", False),
        ("api.example.com", "user@api.example.com:443", False),
        ("api.example.com", "", False),
    ],
)
def test_hosts(granted: str, target: str, covers: bool) -> None:
    assert covered("http:fetch", granted, target) is covers


def test_grants_of_one_host_add_up() -> None:
    both = ["api.example.com:8443", "api.example.com", "*.example.com:9000"]
    for port, covers in ((443, True), (8443, True), (9000, True), (9001, False)):
        assert covered("http:fetch", both, host_target("api.example.com", port)) is covers


def test_a_target_for_an_address_is_spelled_with_brackets() -> None:
    assert host_target("::1", 443) == "[::1]:443"


def test_connectors_by_key_and_prefix() -> None:
    assert covered("connector:read", "erp", "erp")
    assert covered("connector:read", "erp.*", "erp.stock")
    assert not covered("connector:read", "erp", "erp2")
    assert not covered("connector:read", "*", "erp")


def test_an_unknown_kind_covers_nothing_even_when_listed() -> None:
    assert not covered("db:drop", "addon_crm.contacts", "addon_crm.contacts")
    assert not covered("db:drop", [], "addon_shop.orders")


LABEL = st.from_regex(r"\A[a-z][a-z0-9]{0,5}\Z")
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
TARGETS = st.one_of(
    NAMES, NAMES.map(lambda name: f"{name}.*"), st.just("*"), NAMES.map(lambda name: f"*.{name}"), st.text(max_size=20)
)
KINDS = st.sampled_from([kind.value for kind in CapabilityKind])


def by_the_book(kind: str, granted: str, target: str) -> bool:
    """The rule of the contract, written the slow way, for targets that are plain names joined by dots."""
    if target_problem(kind, granted):
        return False
    if kind == "http:fetch":
        stem = granted.lower().removeprefix("*.")
        return target == stem or (granted.startswith("*.") and target.endswith(f".{stem}"))
    if granted == "*":
        return True
    if granted.endswith(".*"):
        return target.startswith(granted[:-1]) and granted != "public.*"
    return target == granted


@given(KINDS, TARGETS, NAMES)
def test_matching_agrees_with_the_rule_written_the_slow_way(kind: str, granted: str, target: str) -> None:
    assert covered(kind, granted, target, addon="nobody") is by_the_book(kind, granted, target)


@given(KINDS, st.lists(TARGETS, max_size=4), st.text(max_size=30))
def test_more_grants_never_take_away(kind: str, granted: list[str], target: str) -> None:
    for some in range(len(granted)):
        if covered(kind, granted[:some], target):
            assert covered(kind, granted, target)


@given(KINDS, TARGETS, NAMES)
def test_what_is_covered_stays_covered_under_its_canonical_name(kind: str, granted: str, target: str) -> None:
    name = canonical(kind, target, ACME)
    assert canonical(kind, name, ACME) == name
    assert covered(kind, granted, target) == covered(kind, granted, name)


@given(NAMES, LABEL)
def test_a_tenants_schema_is_the_addons_for_that_tenant_alone(table: str, key: str) -> None:
    for owner, reader in ((ACME, GLOBEX), (GLOBEX, ACME)):
        target = f"addon_{key}_{owner.hex[:8]}.{table}"
        assert canonical("db:read", target, owner) == f"addon_{key}.{table}"
        assert canonical("db:read", target, reader) == target
        assert not covered("db:read", f"addon_{key}.*", target, organization=reader, addon="nobody")
