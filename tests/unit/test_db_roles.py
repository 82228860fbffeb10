"""Passwords become SCRAM verifiers before they travel."""

from __future__ import annotations

import pytest

from metacore.db.roles import scram_verifier
from metacore.errors import Misconfigured


def test_a_verifier_does_not_show_the_password_and_differs_every_time() -> None:
    first, second = scram_verifier("hunter2"), scram_verifier("hunter2")
    assert first.startswith("SCRAM-SHA-256$4096:")
    assert "hunter2" not in first
    assert first != second


@pytest.mark.parametrize("password", ["", "päss", "line\nbreak", "nul\x00"])
def test_passwords_that_clients_could_prepare_differently_are_refused(password: str) -> None:
    with pytest.raises(Misconfigured):
        scram_verifier(password)
