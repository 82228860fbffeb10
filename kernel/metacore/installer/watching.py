"""How work tells that it lives, to whoever ends a process that hangs. By default nobody listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

Busy = Callable[[str], AbstractContextManager[Callable[[], None]]]
"""Entered with words for a piece of work while that goes on; what it gives is called whenever the work gets on."""


def nothing() -> None:
    return None


def unwatched(_work: str) -> AbstractContextManager[Callable[[], None]]:
    return contextlib.nullcontext(nothing)
