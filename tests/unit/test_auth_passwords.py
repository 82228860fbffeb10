"""Password hashing: argon2id, the same work for unknown users, and bounds that a flood cannot pass."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import argon2
import pytest
from tests.accounts import config

from metacore.auth.passwords import Passwords
from metacore.errors import TooManyRequests

PASSWORD = "correct horse battery"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(config())
    yield made
    made.close()


async def test_a_hash_is_argon2id_and_verifies_only_its_password(passwords: Passwords) -> None:
    encoded = await passwords.hash(PASSWORD)
    assert encoded.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert await passwords.verify(encoded, PASSWORD)
    assert not await passwords.verify(encoded, PASSWORD + " ")
    assert await passwords.hash(PASSWORD) != encoded


async def test_one_password_typed_in_two_unicode_forms_is_one_password(passwords: Passwords) -> None:
    assert await passwords.verify(await passwords.hash("café crème"), "cafe\u0301 cre\u0300me")


@pytest.mark.parametrize("password", ["", "\ud800 lone surrogate", "nul\x00byte", "x" * 5000])
async def test_any_string_can_be_tried(passwords: Passwords, password: str) -> None:
    assert not await passwords.verify(await passwords.hash(PASSWORD), password)


async def test_an_overlong_password_never_matches_even_by_its_beginning(passwords: Passwords) -> None:
    encoded = await passwords.hash("x" * 1024)
    assert await passwords.verify(encoded, "x" * 1024)
    assert not await passwords.verify(encoded, "x" * 1025)


async def test_an_unknown_user_costs_a_real_verification(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    genuine = argon2.PasswordHasher.verify

    def counting(self: argon2.PasswordHasher, encoded: str, password: bytes) -> bool:
        seen.append(encoded)
        return genuine(self, encoded, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counting)
    known = await passwords.hash(PASSWORD)
    assert not await passwords.verify(None, PASSWORD)
    assert not await passwords.verify(known, "wrong password")
    dummy, real = (argon2.extract_parameters(encoded) for encoded in seen)
    assert dummy == real


async def test_what_is_no_hash_never_matches(passwords: Passwords) -> None:
    assert not await passwords.verify("", PASSWORD)
    assert not await passwords.verify("plain text", "plain text")


async def test_a_hash_with_other_parameters_wants_a_new_one(passwords: Passwords) -> None:
    stronger = Passwords(config(hash_time_cost=2))
    encoded = await passwords.hash(PASSWORD)
    assert not passwords.needs_rehash(encoded)
    assert stronger.needs_rehash(encoded)
    assert await stronger.verify(encoded, PASSWORD)
    stronger.close()


async def test_a_flood_is_refused_beyond_the_queue_and_leaves_other_threads_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    running: list[str] = []

    def slow(self: argon2.PasswordHasher, password: bytes) -> str:
        running.append(threading.current_thread().name)
        gate.wait()
        return "hash"

    monkeypatch.setattr(argon2.PasswordHasher, "hash", slow)
    passwords = Passwords(config(hash_concurrency=2, hash_queue=3))
    try:
        waiting = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(5)]
        await asyncio.to_thread(lambda: None)  # The default pool still answers.
        with pytest.raises(TooManyRequests) as refused:
            await passwords.hash(PASSWORD)
        assert refused.value.retry_after
        assert len(running) <= 2
        gate.set()
        assert await asyncio.gather(*waiting) == ["hash"] * 5
        assert await passwords.hash(PASSWORD) == "hash"
        assert all(name.startswith("metacore-argon2") for name in running)
        assert len(set(running)) <= 2
    finally:
        gate.set()
        passwords.close()


async def test_a_caller_that_goes_away_frees_no_place_before_its_hash_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, started = threading.Event(), threading.Event()

    def slow(self: argon2.PasswordHasher, password: bytes) -> str:
        started.set()
        gate.wait()
        return "hash"

    monkeypatch.setattr(argon2.PasswordHasher, "hash", slow)
    passwords = Passwords(config(hash_concurrency=1, hash_queue=0))
    try:
        first = asyncio.create_task(passwords.hash(PASSWORD))
        await asyncio.to_thread(started.wait)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(TooManyRequests):
            await passwords.hash(PASSWORD)
    finally:
        gate.set()
        passwords.close()
