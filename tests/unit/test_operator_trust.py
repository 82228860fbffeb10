"""Which keys may sign, read from files or a Secret that change while everything runs."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import Misconfigured, PermissionDenied, Unavailable
from metacore_operator.cluster.trust import SecretTrust
from metacore_operator.trust import Trust

ONE, TWO, FIXED = "1" * 64, "ab" * 32, "f" * 64


def keys(trust: Trust) -> list[str]:
    return [key.hex() for key in trust.current().keys]


def test_files_and_fixed_keys_count_together(tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_text(f"# production\n{ONE}\n\n  {TWO.upper()}  # the second one\n{ONE}\n")

    assert keys(Trust([file], [FIXED])) == [FIXED, ONE, TWO]


def test_changes_are_seen_when_it_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_text(f"{ONE}\n{TWO}\n")
    trust = Trust([file])
    assert not trust.reload()

    file.write_text(f"{TWO}\n")
    assert keys(trust) == [ONE, TWO]
    assert trust.reload()
    assert keys(trust) == [TWO]

    file.unlink()
    assert trust.reload()
    assert keys(trust) == [], "a file that is gone trusts nobody"


def test_a_file_that_cannot_be_understood_changes_nothing_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_text(f"{ONE}\n")
    trust = Trust([file])

    file.write_text(f"{ONE}\nsomething else\n")
    with pytest.raises(Misconfigured, match=r"trusted, line 2: expected an Ed25519 public key"):
        trust.reload()
    assert keys(trust) == [ONE]


def test_unsigned_bundles_are_an_explicit_choice() -> None:
    assert not Trust().current().allow_unsigned
    assert Trust(allow_unsigned=True).current().allow_unsigned


SECRET = "/api/v1/namespaces/shop/secrets/trust"


@pytest.mark.parametrize("unsigned", [False, True])
async def test_before_the_secret_was_read_nobody_is_given_keys_not_even_fixed_ones(unsigned: bool) -> None:
    api = ObjectsInMemory()
    api.put(SECRET, {"data": {"keys": base64.b64encode(ONE.encode()).decode()}})
    trust = SecretTrust(api, "shop", "trust", [FIXED], allow_unsigned=unsigned)
    api.failing = PermissionDenied("secrets is forbidden")
    with pytest.raises(PermissionDenied):
        await trust.reload()
    with pytest.raises(Unavailable, match="not known yet"):
        trust.current()

    api.failing = None
    assert await trust.reload()
    assert [key.hex() for key in trust.current().keys] == [FIXED, ONE]

    api.failing = Unavailable("the API server does not answer")
    with pytest.raises(Unavailable):
        await trust.reload()
    assert [key.hex() for key in trust.current().keys] == [FIXED, ONE], "what was trusted before stays"
