"""Which keys may sign, read from files that change while everything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metacore.errors import Misconfigured
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
