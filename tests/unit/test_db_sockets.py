"""Connections to PostgreSQL have keepalives, whichever event loop made them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from metacore.db.sockets import GONE_SECONDS, IDLE_SECONDS, PROBE_SECONDS, PROBES, watch

WANTED = {
    "TCP_KEEPIDLE": IDLE_SECONDS,
    "TCP_KEEPINTVL": PROBE_SECONDS,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": GONE_SECONDS * 1000,
}


async def watched(listening: socket.socket) -> None:
    with listening, socket.socket(listening.family) as client:
        listening.listen()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, listening.getsockname())
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=client)
        watch(transport)
        if listening.family != socket.AF_UNIX:
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in WANTED.items():
                assert client.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value, name
        transport.write(b"still open")
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(100) == b"still open"
        transport.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_options_are_set_on_tcp_and_the_socket_stays_whole(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    unix.bind(str(tmp_path / "s"))
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(watched(tcp))
        runner.run(watched(unix))


def test_a_transport_without_a_socket_is_left_alone() -> None:
    watch(asyncio.BaseTransport())
