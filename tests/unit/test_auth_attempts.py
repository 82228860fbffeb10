"""Guesses are damped per email and address, and nobody is locked out by somebody else."""

from __future__ import annotations

import pytest
from tests.accounts import Clock

from metacore.auth import attempts
from metacore.auth.attempts import AttemptLimiter
from metacore.errors import TooManyRequests

EMAIL, HERE, THERE = "ada@example.com", "192.0.2.1", "198.51.100.7"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> AttemptLimiter:
    return AttemptLimiter(3, 60, now=clock)


def spend(limiter: AttemptLimiter, times: int = 3) -> None:
    for _ in range(times):
        limiter.begin(EMAIL, HERE)


def test_the_attempt_after_the_limit_is_refused_and_told_when_to_return(limiter: AttemptLimiter, clock: Clock) -> None:
    spend(limiter, 1)
    clock.advance(20)
    spend(limiter, 2)
    with pytest.raises(TooManyRequests) as refused:
        limiter.begin(EMAIL, HERE)
    assert refused.value.retry_after == pytest.approx(40)


def test_the_window_slides(limiter: AttemptLimiter, clock: Clock) -> None:
    spend(limiter)
    clock.advance(60)
    spend(limiter)
    with pytest.raises(TooManyRequests):
        limiter.begin(EMAIL, HERE)


def test_neither_another_address_nor_another_email_is_locked_out(limiter: AttemptLimiter) -> None:
    spend(limiter)
    limiter.begin(EMAIL, THERE)
    limiter.begin("grace@example.com", HERE)


def test_success_forgets_the_failures(limiter: AttemptLimiter) -> None:
    spend(limiter, 2)
    limiter.succeeded(EMAIL, HERE)
    spend(limiter, 3)


def test_an_attempt_that_told_nothing_is_not_counted(limiter: AttemptLimiter) -> None:
    for _ in range(10):
        limiter.begin(EMAIL, HERE)
        limiter.forgive(EMAIL, HERE)


def test_refused_attempts_do_not_prolong_the_wait(limiter: AttemptLimiter, clock: Clock) -> None:
    spend(limiter)
    for _ in range(5):
        clock.advance(10)
        with pytest.raises(TooManyRequests):
            limiter.begin(EMAIL, HERE)
    clock.advance(10)
    limiter.begin(EMAIL, HERE)


def test_zero_switches_it_off(clock: Clock) -> None:
    limiter = AttemptLimiter(0, 60, now=clock)
    spend(limiter, 100)


def test_memory_is_bounded(limiter: AttemptLimiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_KEYS", 10)
    for number in range(100):
        limiter.begin(f"{number}@example.com", HERE)
    assert len(limiter._attempts) == 10
