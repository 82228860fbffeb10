"""What every source gives, and what it may say instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from metacore.errors import Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.spec import SourceKind

LARGEST_BUNDLE = 64 * 1024 * 1024
"""Bytes of an archive that are read at most: contract 8 allows as much after decompression."""

LARGEST_SIGNATURE = 4 * 1024 * 1024
"""Bytes of a signature object, which may list a checksum for every file."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """`signature` is the signature object as found beside the bundle, undecoded; None when there is none.

    `origin` is what messages call it.
    """

    content: bytes
    signature: bytes | None
    origin: str


class Look(StrEnum):
    """How closely a source is looked at: what cannot have changed is not asked for; the signature is, because another
    one beside the same bundle may be the remedy; or everything is, because somebody wants it."""

    CHEAP = "cheap"
    SIGNATURE = "signature"
    ALL = "all"


Stored = Callable[[str], Awaitable[bytes | None]]
"""Gives the bytes that are kept under a SHA-256 in hex, or None."""


async def nothing_stored(_digest: str) -> bytes | None:
    return None


class AskLater(Unavailable):
    """The source wants to be left alone for `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Source(Protocol):
    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        """The bundle that the Addon names. What is `stored` already under the digest it must have is not fetched again.

        Raises:
            AskLater: not before so many seconds have passed.
            Unavailable: it is not there now; trying again may help.
            Refused: it may not be read at all, or is too large.
        """
        ...


Sources = Mapping[SourceKind, Source]
"""A kind that is missing here is not supported by this process."""
