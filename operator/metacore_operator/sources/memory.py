"""What sources answered last, so that what has not changed is asked for in the cheapest way. It is gone with the
process, and then the next look fetches as the first one did."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from metacore_operator.resources.addon import Addon

T = TypeVar("T")

MOST_BYTES = 32 * 1024 * 1024
LARGEST_BYTES = 256 * 1024
"""Of all that is remembered, and of one answer: signatures have a few kilobytes, and whoever makes them larger may not
take the operator's memory."""
EACH_BYTES = 1024
"""Counted for an answer beside its signature."""


class Memory(Generic[T]):
    """One answer for each Addon, with what was `asked` for it; the least used go first when it gets too much."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._known: OrderedDict[str, tuple[str, T, int]] = OrderedDict()
        self._bytes = 0

    def recall(self, addon: Addon, asked: str) -> T | None:
        """The last answer to exactly this question."""
        known = self._known.get(addon.metadata.uid)
        if known is None or known[0] != asked:
            return None
        self._known.move_to_end(addon.metadata.uid)
        return known[1]

    def keep(self, addon: Addon, asked: str, answer: T, signature: bytes | None) -> None:
        """Remember `answer`, which holds `signature`, instead of the one before."""
        self._forget(addon.metadata.uid)
        size = EACH_BYTES + len(signature or b"")
        if not addon.metadata.uid or size > LARGEST_BYTES:
            return
        self._known[addon.metadata.uid] = (asked, answer, size)
        self._bytes += size
        while self._bytes > self._most:
            self._forget(next(iter(self._known)))

    def _forget(self, uid: str) -> None:
        known = self._known.pop(uid, None)
        if known is not None:
            self._bytes -= known[2]
