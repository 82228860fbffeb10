"""Key files: readable by their owner only, never overwritten by chance, never shown in an error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from metacore.bundle.keyfile import new_key, read_private_key, read_public_key, write_key_pair
from metacore.errors import Conflict, InvalidInput, NotFound


def test_a_pair_is_written_and_read_back(tmp_path: Path) -> None:
    key = new_key()
    private = tmp_path / "keys" / "dev.key"
    public = write_key_pair(private, key)
    assert public == tmp_path / "keys" / "dev.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert bytes(read_private_key(private)) == bytes(key)
    assert read_public_key(str(public)) == bytes(key.verify_key).hex()
    assert [path.name for path in sorted(private.parent.iterdir())] == ["dev.key", "dev.pub"]


@pytest.mark.parametrize("name", ["dev.key", "dev.pub"])
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        write_key_pair(tmp_path / "dev.key", new_key())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    key = new_key()
    write_key_pair(tmp_path / "dev.key", key, replace=True)
    assert bytes(read_private_key(tmp_path / "dev.key")) == bytes(key)


def test_replacing_a_readable_file_closes_it(tmp_path: Path) -> None:
    (tmp_path / "dev.key").write_text("x")
    (tmp_path / "dev.key").chmod(0o644)
    write_key_pair(tmp_path / "dev.key", new_key(), replace=True)
    assert stat.S_IMODE((tmp_path / "dev.key").stat().st_mode) == 0o600


def test_a_public_key_is_given_as_text_or_as_a_file(tmp_path: Path) -> None:
    assert read_public_key(" " + "AB" * 32 + "\n") == "ab" * 32
    (tmp_path / "a.pub").write_text("CD" * 32 + "\n")
    assert read_public_key(str(tmp_path / "a.pub")) == "cd" * 32


def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_private_key(tmp_path / "nowhere")
    for content in (b"", b"hunter2 is my password", b"\xff" * 100, b"ab" * 5_000):
        (tmp_path / "bad.key").write_bytes(content)
        with pytest.raises(InvalidInput, match="64 hex digits") as caught:
            read_private_key(tmp_path / "bad.key")
        assert "hunter2" not in caught.value.message
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_private_key(tmp_path)
