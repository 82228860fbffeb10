"""Damping of guesses: a sliding window of failures per email and address, in this process."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from metacore.errors import TooManyRequests

MAX_KEYS = 10_000


class AttemptLimiter:
    """At most `limit` attempts per `window` seconds that did not succeed; `limit` 0 switches it off.

    The key holds the address too, so nobody can lock another one out by guessing wrong in their name.
    """

    def __init__(self, limit: int, window: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._now = now
        self._attempts: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def begin(self, email: str, address: str) -> None:
        """Count an attempt before it is made, so that a burst of parallel ones is counted as well.

        Raises:
            TooManyRequests: the window is full; `retry_after` says when the oldest attempt leaves it.
        """
        if self._limit <= 0:
            return
        now = self._now()
        key = (email, address)
        attempts = self._attempts.get(key)
        if attempts is None:
            attempts = self._attempts[key] = deque()
            if len(self._attempts) > MAX_KEYS:
                self._attempts.popitem(last=False)
        else:
            self._attempts.move_to_end(key)
        while attempts and attempts[0] <= now - self._window:
            attempts.popleft()
        if len(attempts) >= self._limit:
            wait = attempts[0] + self._window - now
            raise TooManyRequests(
                f"too many failed logins: try again in {max(1, round(wait))} s",
                retry_after=wait,
                code="too_many_attempts",
            )
        attempts.append(now)

    def succeeded(self, email: str, address: str) -> None:
        """The right password came: forget the failures."""
        self._attempts.pop((email, address), None)

    def forgive(self, email: str, address: str) -> None:
        """The last attempt told nothing about the password (a part was unavailable): do not count it."""
        attempts = self._attempts.get((email, address))
        if attempts:
            attempts.pop()
