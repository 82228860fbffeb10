"""Capabilities as words, and what a set of them allows. Pure.

A capability is `<resource>.<action>` with a lower-case resource: `tickets.create`. `tickets.*` allows every action on
tickets, `*` everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from metacore.errors import InvalidInput, Problem

EVERYTHING: Final = "*"
MAX_LENGTH = 160
_GRANTABLE = re.compile(r"[a-z0-9_][a-z0-9_.-]*\.(\*|[A-Za-z0-9_-]+)")


@lru_cache(maxsize=4096)
def normalize(capability: str) -> str:
    """`capability` with its resource (all before the last dot) lower-cased; the action stays as it is."""
    resource, dot, action = capability.rpartition(".")
    return f"{resource.lower()}.{action}" if dot else capability


def parse_capability(text: str) -> str:
    """The normalized capability that may be granted.

    Raises:
        InvalidInput: neither `*`, `<resource>.*` nor `<resource>.<action>`, or longer than 160 characters.
    """
    capability = normalize(text.strip()) if len(text) <= MAX_LENGTH else ""
    if capability != EVERYTHING and _GRANTABLE.fullmatch(capability) is None:
        message = f"expected *, <resource>.* or <resource>.<action>, up to {MAX_LENGTH} characters"
        raise InvalidInput(
            f"capability: {message}",
            code="invalid_capability",
            problems=[Problem("capability", "invalid_capability", message)],
        )
    return capability


class Grants:
    """What somebody holds, ready to be asked. `names` are the capabilities as granted, normalized."""

    __slots__ = ("_all", "_resources", "names")

    def __init__(self, capabilities: Iterable[str]) -> None:
        self.names = frozenset(normalize(capability) for capability in capabilities)
        self._all = EVERYTHING in self.names
        self._resources = frozenset(name[:-2] for name in self.names if name.endswith(".*"))

    def allow(self, capability: str) -> bool:
        """Whether this holds `capability`, itself or by a wildcard. `tickets.*` is held by `tickets.*` or `*` only."""
        wanted = normalize(capability)
        return self._all or wanted in self.names or wanted.rpartition(".")[0] in self._resources

    def cover(self, capabilities: Iterable[str]) -> bool:
        """Whether this holds every one of `capabilities`."""
        return all(self.allow(capability) for capability in capabilities)
