"""Secrets at rest, and settings that are laid over stored ones."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tickets import read, tickets_manifest

from metacore.errors import Misconfigured, NotWired, Refused
from metacore.installer.settings_merge import SEALED, check_settings, merged
from metacore.secrets import Sealer

MANIFEST = read(tickets_manifest()).manifest
SEALER = Sealer(b"k" * 32)


def test_what_is_sealed_can_be_opened_with_the_same_key_only() -> None:
    sealed = SEALER.seal(b"a secret")
    assert b"a secret" not in sealed.encode()
    assert SEALER.open(sealed) == b"a secret"
    assert SEALER.seal(b"a secret") != sealed
    with pytest.raises(Misconfigured, match="sealed with master key"):
        Sealer(b"o" * 32).open(sealed)


def test_a_changed_text_is_noticed() -> None:
    key_id, _, text = SEALER.seal(b"a secret").partition(":")
    flipped = ("A" if text[10] != "A" else "B").join((text[:10], text[11:]))
    for broken in (f"{key_id}:{flipped}", f"{key_id}:", f"{key_id}:no base64", f"{key_id}:AAAA"):
        with pytest.raises(Misconfigured, match="was changed"):
            SEALER.open(broken)


def test_a_master_key_has_32_bytes() -> None:
    with pytest.raises(Misconfigured, match="32 bytes"):
        Sealer(b"short")
    with pytest.raises(Misconfigured, match="64 hex digits"):
        Sealer.from_hex("not hex")
    assert Sealer.from_hex("") is None
    made = Sealer.from_hex("6b" * 32)
    assert made is not None
    assert made.key_id == SEALER.key_id


def test_no_error_shows_the_key() -> None:
    with pytest.raises(Misconfigured) as problem:
        Sealer.from_hex("c0ffee" * 9)
    assert "c0ffee" not in problem.value.message


def merge(stored: dict[str, Any], **given: Any) -> dict[str, Any] | None:
    return merged(MANIFEST, stored, given, SEALER)


def test_given_settings_are_laid_over_stored_ones() -> None:
    assert merge({"greeting": "hi", "kept": 1}, greeting="hello") == {"greeting": "hello", "kept": 1}
    assert merge({"greeting": "hi"}, greeting=None) == {}
    assert merge({"greeting": "hi"}, greeting="hi") is None
    assert merge({}) is None


def test_secret_settings_are_sealed_and_the_same_secret_changes_nothing() -> None:
    stored = merge({}, token="t0ken")
    assert stored is not None
    assert "t0ken" not in str(stored)
    assert SEALER.open(stored["token"][SEALED]) == b'"t0ken"'
    assert merge(stored, token="t0ken") is None
    assert merge(stored, token="another") is not None


def test_a_secret_setting_needs_a_master_key() -> None:
    with pytest.raises(NotWired, match="master key"):
        merged(MANIFEST, {}, {"token": "x"}, None)


def test_unknown_settings_are_refused() -> None:
    check_settings(MANIFEST, {"greeting": "x"})
    with pytest.raises(Refused, match="'nope' is not a setting"):
        check_settings(MANIFEST, {"greeting": "x", "nope": 1})
