"""What a spec approves of what a bundle asks for, before and after it was installed."""

from __future__ import annotations

from typing import Any

import pytest

from metacore.capabilities.grants import missing
from metacore.manifest.model import Capability
from metacore_operator.resources.spec import Capabilities
from metacore_operator.steps.capabilities import approved
from metacore_operator.steps.state import InstalledAddon

ASKED = (Capability(kind="db:read", target="orders.items"), Capability(kind="http:fetch", target="api.example.com"))


def wish(accept: str, *pairs: tuple[str, str]) -> Capabilities:
    return Capabilities.model_validate(
        {"accept": accept, "list": [{"kind": kind, "target": target} for kind, target in pairs]}
    )


def version(*grants: Capability) -> InstalledAddon:
    return InstalledAddon("shop", "", "d" * 64, "1.0.0", "", "", "", 1, {}, grants=grants)


def left(wished: Capabilities, asked: tuple[Capability, ...] = ASKED, was: InstalledAddon | None = None) -> Any:
    return missing("shop", asked, approved(wished, asked, was))


def test_the_first_installation_is_granted_what_it_declares() -> None:
    assert left(Capabilities()) == ()


def test_growth_waits_until_it_is_listed() -> None:
    was = version(ASKED[0])
    assert left(wish("Declared"), was=was) == ASKED[1:]
    assert left(wish("Declared", ("http:fetch", "*.example.com")), was=was) == ()


def test_less_or_the_same_does_not_wait() -> None:
    assert left(Capabilities(), was=version(*ASKED)) == ()
    assert left(Capabilities(), ASKED[:1], version(*ASKED)) == ()


def test_a_narrower_target_than_the_granted_one_is_no_growth_and_a_wider_one_is() -> None:
    narrow, wide = Capability(kind="db:read", target="orders.items"), Capability(kind="db:read", target="orders.*")
    assert left(Capabilities(), (narrow,), version(wide)) == ()
    assert left(Capabilities(), (wide,), version(narrow)) == (wide,)


def test_always_waits_for_nobody() -> None:
    assert left(wish("Always"), was=version()) == ()


def test_listed_accepts_only_what_is_listed_and_names_the_rest() -> None:
    assert left(wish("Listed", ("db:read", "orders.items"))) == ASKED[1:]
    assert left(wish("Listed")) == ASKED
    assert left(wish("Listed"), was=version(*ASKED)) == ASKED
    assert left(wish("Listed", ("db:read", "orders.items"), ("http:fetch", "api.example.com"))) == ()


def test_the_kind_must_be_the_same() -> None:
    assert left(wish("Listed", ("db:write", "orders.items"), ("http:fetch", "api.example.com"))) == ASKED[:1]


@pytest.mark.parametrize(
    ("kind", "accepted", "asked", "covered"),
    [
        ("db:read", "orders.*", "orders.items", True),
        ("db:read", "orders.*", "orders.*", True),
        ("db:read", "orders.*", "orders", False),
        ("db:read", "orders.*", "ordersx.items", False),
        ("db:read", "*", "orders.items", False),
        ("db:read", "orders.items", "orders.*", False),
        ("db:read", "public.*", "public.*", True),
        ("db:read", "public.*", "users", False),
        ("db:read", "users", "public.users", True),
        ("db:write", "other.things", "addon_shop.things", True),
        ("event:emit", "*", "shop.order.created", True),
        ("event:emit", "shop.*", "*", False),
        ("http:fetch", "*.example.com", "api.example.com", True),
        ("http:fetch", "*.example.com", "example.com", True),
        ("http:fetch", "*.example.com", "*.api.example.com", True),
        ("http:fetch", "*.api.example.com", "*.example.com", False),
        ("http:fetch", "*.example.com", "badexample.com", False),
        ("http:fetch", "example.*", "example.com", False),
        ("http:fetch", "example.com", "example.com:443", True),
        ("http:fetch", "example.com", "example.com:8443", False),
        ("http:fetch", "example.com:443", "example.com", False),
    ],
)
def test_wildcards_cover_what_contract_11_says(kind: str, accepted: str, asked: str, covered: bool) -> None:
    waiting = left(wish("Listed", (kind, accepted)), (Capability(kind=kind, target=asked),))

    assert (waiting == ()) is covered
