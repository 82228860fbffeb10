"""One client's connection, and what the hub needs of the server beneath it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final, Protocol

from metacore.identity import Principal
from metacore.ws.messages import Message

QUEUE_MESSAGES: Final = 1024
"""Messages that may wait for a client (contract 14)."""

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Bytes that may wait for a client, so that a thousand dead ones with large messages cannot fill the memory."""

Verify = Callable[[], Awaitable[Principal]]
"""Checks the connection's token again; raises `Unauthenticated` when it does not hold any more."""


class CloseCode(IntEnum):
    """Codes that the hub closes with: RFC 6455, 7.4, and 4401 for a token that ended."""

    GOING_AWAY = 1001
    TOO_BIG = 1009
    TRY_AGAIN_LATER = 1013
    UNAUTHENTICATED = 4401


class Sink(Protocol):
    """Where messages of one connection go. Neither method waits."""

    def push(self, message: Message) -> bool:
        """Send, or queue for sending. False when the client is too slow: the message was not taken. True, and nothing
        happens, when the connection is closing."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Close the connection. What is queued may get lost."""
        ...


class Connection:
    """A client. `principal` follows the database: it is renewed whenever the caller's rights may have changed."""

    __slots__ = ("channel", "expiry", "principal", "sink", "verify")

    def __init__(self, principal: Principal, sink: Sink, *, channel: str = "", verify: Verify | None = None) -> None:
        self.principal = principal
        self.sink = sink
        self.channel = channel
        self.verify = verify
        self.expiry: asyncio.TimerHandle | None = None
