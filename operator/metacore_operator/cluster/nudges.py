"""Addons that wait for kopf are shown to it again. It acts on what it is told of an object, and when its writes were
refused for longer than it tries, it knows nothing more of it until somebody changes the object.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metacore_operator.cluster.board import Board
from metacore_operator.cluster.ledger import Ledger

NUDGE_SECONDS = 120.0
"""Longer than kopf tries one write and then rests, so that an Addon that it is busy with is left alone."""


class Nudges:
    """kopf owes an Addon the finalizer, or when it is deleted the removal and then the finalizer's end."""

    def __init__(self, ledger: Ledger, board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Nudge each Addon that has waited for NUDGE_SECONDS, and forget those that went without a word.

        Raises:
            MetacoreError: one could not be nudged now; its turn comes again, and that of the others with the next call.
        """
        now = self._clock()
        owed = {}
        for name in self._ledger.names:
            record = self._ledger.get(name)
            if record is not None and record.held == record.deleting:
                owed[name, record.addon.metadata.uid] = record.addon.metadata
        self._since = {key: self._since.get(key, now) for key in owed}
        for key, metadata in owed.items():
            if now - self._since[key] < NUDGE_SECONDS:
                continue
            self._since[key] = now
            if not await self._board.nudge(metadata):
                self._ledger.forget(*key)
