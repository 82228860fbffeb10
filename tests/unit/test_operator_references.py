"""The operator is no deputy: what an Addon refers to must be meant for it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import PermissionDenied, Refused, Unavailable
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.sources.config_map import ConfigMapSource
from metacore_operator.sources.references import ALLOW, References


def addon(name: str = "tickets", **source: Any) -> Addon:
    return parse_addon(
        {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {
                "source": source or {"configMap": {"name": "bundle", "key": "b"}},
                "organizations": {"all": True},
            },
        }
    )


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def stored(kind: str = "configmaps", labels: dict[str, str] | None = None, **entries: Any) -> ObjectsInMemory:
    api = ObjectsInMemory()
    api.put(f"/api/v1/namespaces/team/{kind}/bundle", {"metadata": {"labels": labels}, **entries})
    return api


ALLOWED = {ALLOW: "tickets"}


async def test_a_bundle_and_its_signature_are_entries_of_a_config_map() -> None:
    api = stored(labels=ALLOWED, binaryData={"b": encoded(b"\x1f\x8b")}, data={"b.sig.json": "{}"})
    fetched = await ConfigMapSource(References(api)).fetch(addon())
    assert (fetched.content, fetched.signature) == (b"\x1f\x8b", b"{}")


async def test_a_bundle_without_a_signature_beside_it_has_none() -> None:
    api = stored(labels=ALLOWED, binaryData={"b": encoded(b"x")})
    assert (await ConfigMapSource(References(api)).fetch(addon())).signature is None


@pytest.mark.parametrize("labels", [None, {}, {ALLOW: "other"}, {ALLOW: ""}])
async def test_what_is_not_labelled_for_this_addon_is_not_read(labels: dict[str, str] | None) -> None:
    api = stored(labels=labels, binaryData={"b": encoded(b"x")})
    with pytest.raises(Unavailable, match=r"lacks the label metacore\.dev/allow: tickets"):
        await ConfigMapSource(References(api)).fetch(addon())


async def test_a_secret_needs_the_label_too() -> None:
    references = References(stored("secrets", data={"token": encoded(b"t")}))
    with pytest.raises(Unavailable, match="lacks the label"):
        await references.secret(addon(), "bundle")


async def test_only_the_namespace_of_the_addon_is_looked_into() -> None:
    api = ObjectsInMemory()
    api.put("/api/v1/namespaces/other/configmaps/bundle", {"metadata": {"labels": ALLOWED}})
    with pytest.raises(Unavailable, match="there is no ConfigMap 'bundle' in namespace 'team'"):
        await References(api).config_map(addon(), "bundle")
    for name in ("../../other/configmaps/bundle", "..", "a/b"):
        with pytest.raises(Refused, match="is no name"):
            await References(api).config_map(addon(), name)


async def test_a_missing_entry_is_named() -> None:
    api = stored(labels=ALLOWED, data={"other": "x"})
    with pytest.raises(Unavailable, match="has no entry 'b'"):
        await ConfigMapSource(References(api)).fetch(addon())


async def test_a_missing_right_is_said() -> None:
    api = ObjectsInMemory()
    api.failing = PermissionDenied("forbidden")
    with pytest.raises(Unavailable, match="may not read ConfigMap 'bundle'"):
        await References(api).config_map(addon(), "bundle")
