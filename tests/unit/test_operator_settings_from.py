"""Settings from Secrets and ConfigMaps, held against the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.test_operator_reconcile import KEY, OTHER, World, addon_of, bundle_of, text

from metacore.bundle.signature import sign
from metacore.errors import NotWired, Unavailable
from metacore_operator.outcomes import Done, Reason, Stalled, Waiting
from metacore_operator.resources.addon import Addon

SETTINGS = [
    {"key": "greeting", "type": "string"},
    {"key": "limit", "type": "number"},
    {"key": "loud", "type": "bool"},
    {"key": "token", "type": "string", "secret": True},
]


class Objects:
    """Secrets and ConfigMaps by name."""

    def __init__(self, **entries: Mapping[str, bytes]) -> None:
        self.entries = entries

    async def secret(self, addon: Addon, name: str) -> Mapping[str, bytes]:
        if name not in self.entries:
            raise Unavailable(f"there is no Secret {name!r} in namespace 'default'")
        return self.entries[name]

    config_map = secret


def a_world(**entries: Mapping[str, bytes]) -> World:
    world = World(bundle_of(settings=SETTINGS))
    world.ports = replace(world.ports, references=Objects(**entries))
    return world


def secret(name: str, key: str = "") -> dict[str, Any]:
    return {"secretRef": {"name": name, **({"key": key} if key else {})}}


async def test_later_sources_win_and_the_specs_own_settings_win_over_all() -> None:
    world = a_world(
        base={"greeting": b"hello\n", "limit": b"7", "loud": b"true", "token": b"t-1"},
        more={"all.json": b'{"limit": 8, "loud": false}'},
    )

    summary = await world.reconcile(
        addon_of(
            settingsFrom=[secret("base"), {"configMapRef": {"name": "more", "key": "all.json"}}], settings={"limit": 9}
        )
    )

    assert isinstance(summary.decisive, Done)
    assert world.wish["settings"] == {"greeting": "hello\n", "limit": 9, "loud": False, "token": "t-1"}


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"settingsFrom": [secret("gone")]}, Reason.REFERENCE_UNAVAILABLE, "there is no Secret 'gone'"),
        ({"settingsFrom": [secret("a", "k")]}, Reason.REFERENCE_UNAVAILABLE, "Secret 'a' has no entry 'k'"),
        ({"settingsFrom": [secret("a", "text")]}, Reason.SETTINGS_REFUSED, "entry 'text' is no JSON"),
        ({"settingsFrom": [secret("a", "list")]}, Reason.SETTINGS_REFUSED, "entry 'list' is no JSON object"),
        ({"settingsFrom": [secret("b")]}, Reason.SETTINGS_REFUSED, "entry 'limit' is no JSON"),
        ({"settingsFrom": [secret("c")]}, Reason.SETTINGS_REFUSED, "setting 'colour' is not a setting"),
        ({"settingsFrom": [secret("d")]}, Reason.SETTINGS_REFUSED, "entry 'token' is not UTF-8"),
        ({"settings": {"colour": "x"}}, Reason.SETTINGS_REFUSED, "setting 'colour' is not a setting"),
        ({"settings": {"limit": "many"}}, Reason.SETTINGS_REFUSED, "setting 'limit' must be a number"),
        ({"settings": {"loud": 1, "limit": "s3cret"}}, Reason.SETTINGS_REFUSED, "(and 1 more)"),
    ],
)
async def test_what_cannot_be_a_setting_is_told_by_name_and_never_by_value(
    spec: dict[str, Any], reason: Reason, words: str
) -> None:
    world = a_world(
        a={"text": b"s3cret", "list": b'["s3cret"]'},
        b={"limit": b"s3cret"},
        c={"colour": b"s3cret"},
        d={"token": b"s3cret\xff"},
    )

    summary = await world.reconcile(addon_of(**spec))

    assert isinstance(summary.decisive, Waiting if reason is Reason.REFERENCE_UNAVAILABLE else Stalled)
    assert summary.decisive.reason is reason and words in text(summary)
    assert "s3cret" not in summary.status.model_dump_json()
    assert summary.status.condition("PreflightPassed").status == "False"  # type: ignore[union-attr]
    assert world.calls == []


async def test_without_a_master_key_a_secret_setting_is_told() -> None:
    world = a_world()
    world.refusal = NotWired("setting 'token' is a secret: configure a master key to store it")

    summary = await world.reconcile(addon_of(settings={"token": "s3cret"}))

    assert summary.decisive.reason is Reason.SETTINGS_REFUSED and "'token'" in text(summary)


async def test_where_there_are_no_secrets_settings_from_them_are_unsupported() -> None:
    summary = await World().reconcile(addon_of(settingsFrom=[secret("a")]))

    assert summary.decisive.reason is Reason.SETTINGS_UNSUPPORTED


async def test_a_signature_may_stand_in_a_secret_and_counts_instead_of_the_one_beside_the_bundle() -> None:
    world = World(signer=OTHER)
    good = json.dumps(sign(world.content, KEY).as_json()).encode()
    world.ports = replace(world.ports, references=Objects(one={"sig": good}, two={"sig": good, "other": b""}))

    for reference in ({"name": "one"}, {"name": "two", "key": "sig"}):
        assert isinstance((await world.reconcile(addon_of(signature={"secretRef": reference}))).decisive, Done)
    unclear = await world.reconcile(addon_of(signature={"secretRef": {"name": "two"}}))
    assert isinstance(unclear.decisive, Stalled) and "has 2 entries" in text(unclear)
    changed = addon_of(signature={"secretRef": {"name": "none"}})
    changed = changed.model_copy(update={"metadata": changed.metadata.model_copy(update={"generation": 2})})
    gone = await world.reconcile(changed)
    assert isinstance(gone.decisive, Waiting) and "'none'" in text(gone)
