"""How a bundle's migrations went when they were tried, remembered for a while: a stalled Addon is looked at often."""

from __future__ import annotations

import time
from collections.abc import Callable

from metacore.installer.steps import Rehearsal

FRESH_SECONDS = 600.0
"""After so long the rows may be others."""
MOST = 256


class Rehearsals:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str, str], tuple[float, Rehearsal]] = {}

    def recall(self, key: str, digest: str, installed: str) -> Rehearsal | None:
        """How `digest` went on top of the bundle `installed`, if that was tried lately."""
        known = self._known.get((key, digest, installed))
        return known[1] if known is not None and self._clock() - known[0] < FRESH_SECONDS else None

    def remember(self, key: str, digest: str, installed: str, rehearsal: Rehearsal) -> None:
        self._known.pop((key, digest, installed), None)
        self._known[key, digest, installed] = (self._clock(), rehearsal)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
