"""What a spec accepts of what a bundle asks for."""

from __future__ import annotations

import pytest

from metacore.manifest.model import Capability
from metacore_operator.resources.spec import Capabilities
from metacore_operator.steps.capabilities import missing

ASKED = (Capability(kind="db:read", target="orders.items"), Capability(kind="http:fetch", target="api.example.com"))


def listed(*pairs: tuple[str, str]) -> Capabilities:
    return Capabilities.model_validate(
        {"accept": "Listed", "list": [{"kind": kind, "target": target} for kind, target in pairs]}
    )


def test_declared_accepts_everything() -> None:
    assert missing(Capabilities(), ASKED) == ()


def test_listed_accepts_only_what_is_listed_and_names_the_rest() -> None:
    assert missing(listed(("db:read", "orders.items")), ASKED) == ASKED[1:]
    assert missing(listed(), ASKED) == ASKED
    assert missing(listed(("db:read", "orders.items"), ("http:fetch", "api.example.com")), ASKED) == ()


def test_the_kind_must_be_the_same() -> None:
    assert missing(listed(("db:write", "orders.items"), ("http:fetch", "api.example.com")), ASKED) == ASKED[:1]


@pytest.mark.parametrize(
    ("kind", "accepted", "asked", "covered"),
    [
        ("db:read", "orders.*", "orders.items", True),
        ("db:read", "orders.*", "orders", False),
        ("db:read", "orders.*", "ordersx.items", False),
        ("db:read", "*", "orders.items", False),
        ("db:read", "orders.items", "orders.*", False),
        ("event:emit", "*", "shop.order.created", True),
        ("event:emit", "shop.*", "*", False),
        ("http:fetch", "*.example.com", "api.example.com", True),
        ("http:fetch", "*.example.com", "example.com", True),
        ("http:fetch", "*.example.com", "badexample.com", False),
        ("http:fetch", "example.*", "example.com", False),
    ],
)
def test_wildcards_cover_what_contract_11_says(kind: str, accepted: str, asked: str, covered: bool) -> None:
    left = missing(listed((kind, accepted)), (Capability(kind=kind, target=asked),))

    assert (left == ()) is covered
