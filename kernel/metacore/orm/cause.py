"""How an event came about: how many runs of subscriptions lead to what is being written right now.

A subscription that changes rows makes events, which may wake it again. Each event carries how deep it lies, whatever
wrote it, so that such a chain ends (`LONGEST_CHAIN`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

LONGEST_CHAIN: Final = 8
"""Events that lie deeper wake no subscription any more."""

_DEPTH: ContextVar[int] = ContextVar("metacore_event_depth", default=0)


def depth() -> int:
    """What the writer of an event stores as its depth; 0 for what no subscription caused."""
    return _DEPTH.get()


@contextlib.contextmanager
def at(depth: int) -> Iterator[None]:
    """What is written inside has this depth."""
    token = _DEPTH.set(depth)
    try:
        yield
    finally:
        _DEPTH.reset(token)
