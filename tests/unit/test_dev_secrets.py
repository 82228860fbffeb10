"""What `metacore dev` keeps beside the data: made once, private, never replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metacore.cli.dev_secrets import load_login, load_secrets
from metacore.errors import Misconfigured


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"

    first = load_secrets(file)

    assert load_secrets(file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(first.master_key)) == 32
    assert len({first.owner_password, first.kernel_password, first.jwt_secret, first.master_key}) == 4


@pytest.mark.parametrize("content", ["", "{", '{"owner_password": 3}', "[]"])
def test_secrets_that_cannot_be_read_are_never_replaced_nor_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(content)

    with pytest.raises(Misconfigured, match=r"secrets\.json cannot be understood"):
        load_secrets(file)
    assert file.read_text() == content


def test_the_login_keeps_its_password_and_follows_the_port(tmp_path: Path) -> None:
    file = tmp_path / "owner.json"

    first = load_login(file, "http://127.0.0.1:8000")
    second = load_login(file, "http://127.0.0.1:9000")

    assert second.password == first.password
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text()) == {
        "url": "http://127.0.0.1:9000",
        "email": first.email,
        "password": first.password,
    }
