"""Connections to PostgreSQL that notice when the other side is gone without a word.

A node that loses its power closes nothing: without this, whoever waits for an answer of it waits for ever, and whoever
sends to it a quarter of an hour (Linux retransmits that long).
"""

from __future__ import annotations

import os
import socket
from asyncio import BaseTransport
from typing import TYPE_CHECKING, Any, Final

import asyncpg

IDLE_SECONDS: Final = 30
"""Silence after which the other side is asked whether it is there. A server that works on a long statement answers:
its kernel does, not the statement."""
PROBE_SECONDS: Final = 10
PROBES: Final = 6
GONE_SECONDS: Final = IDLE_SECONDS + PROBE_SECONDS * PROBES
"""How long the other side may acknowledge nothing: 90 s, more than a failover of a network or the pause of a virtual
machine that moves, and less than anybody's patience."""


if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


class Watched(Connection):
    """For `connection_class` of asyncpg: its socket has keepalives, so that statements end when the server is gone."""

    # One constructor for every connection of the pool, the engine and the tools that connect by themselves.
    def __init__(self, protocol: Any, transport: BaseTransport, *rest: Any, **named: Any) -> None:
        super().__init__(protocol, transport, *rest, **named)
        watch(transport)


def watch(transport: BaseTransport) -> None:
    """Set keepalives on the TCP socket beneath `transport`, as far as the system has them. Sockets of the machine
    itself need none."""
    shown = transport.get_extra_info("socket")
    if shown is None or shown.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # What a transport shows may lack the method (uvloop), but the options belong to the socket, whoever sets them.
    with socket.socket(fileno=os.dup(shown.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", IDLE_SECONDS),
            ("TCP_KEEPINTVL", PROBE_SECONDS),
            ("TCP_KEEPCNT", PROBES),
            ("TCP_USER_TIMEOUT", GONE_SECONDS * 1000),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                own.setsockopt(socket.IPPROTO_TCP, option, value)
