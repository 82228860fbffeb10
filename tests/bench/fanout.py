"""One message to a thousand clients: the kernel's hub against `websockets.broadcast`, each in a process of its own.

What is compared is the processor time of the server, because the thousand clients here are slower than either.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
from tests.bench.processes import HOST, Child, running
from tests.bench.report import Row
from websockets.asyncio.client import ClientConnection, connect

YARDSTICK = "websockets.broadcast"
CLIENTS = 1_000
AT_ONCE = 50
PADDING = 130
"""With this much of it a message has 200 bytes."""

MESSAGES = 20
PAUSE = 0.01
ROUNDS = 8
TIMED_MESSAGES = 60
TIMED_PAUSE = 0.05
SETTLE_SECONDS = 20
SMALL_BUFFER = 4_096
TEXT, PING = 1, 9
HEADER_END = b"\r\n\r\n"


class Reader(asyncio.Protocol):
    """A client that counts what it gets, and when asked keeps each message with the time of its arrival (ns)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._buffer = bytearray()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0
        self.kept: list[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self.transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /ws?token=reader HTTP/1.1", f"Host: {HOST}:{self._port}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        self.transport.write("\r\n".join(lines).encode() + HEADER_END)

    def data_received(self, data: bytes) -> None:
        arrived = time.monotonic_ns()
        buffer = self._buffer
        buffer += data
        if not self.opened.done():
            end = buffer.find(HEADER_END)
            if end < 0:
                return
            del buffer[: end + len(HEADER_END)]
            self.opened.set_result(None)
        while len(buffer) >= 2:
            size, start = buffer[1], 2
            if size == 126:
                size, start = int.from_bytes(buffer[2:4], "big"), 4
            if len(buffer) < start + size:
                return
            opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + size])
            del buffer[: start + size]
            if opcode == TEXT:
                self.received += 1
                if self.kept is not None:
                    # Read later: a thousand readers share this process, and the last one waits for all of them.
                    self.kept.append((arrived, payload))
            elif opcode == PING:
                # Masked with zeros, which leaves the payload as it is.
                self.transport.write(bytes((0x8A, 0x80 | size, 0, 0, 0, 0)) + payload)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("the upgrade was refused"))


class Crowd:
    """A server's clients, and the one that gives commands."""

    def __init__(self, server: Child, readers: list[Reader], control: ClientConnection) -> None:
        self.server = server
        self.readers = readers
        self._control = control

    async def broadcast(self, count: int, pause: float) -> tuple[float, int]:
        """Processor seconds of the server, and how many deliveries are missing."""
        before = self._received()
        done = await self._command(count=count, size=PADDING, interval=pause)
        expected = before + count * len(self.readers)
        # The readers only count, for their time is part of what is measured; so this asks them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._received() < expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        return done["cpu"], expected - self._received()

    async def stall(self) -> None:
        """Let the server send to the dead client until that takes no more."""
        await self._command(stall=True)

    async def _command(self, **command: Any) -> dict[str, Any]:
        await self._control.send(orjson.dumps(command).decode())
        done: dict[str, Any] = orjson.loads(await self._control.recv())["payload"]
        return done

    def _received(self) -> int:
        return sum(reader.received for reader in self.readers)


@asynccontextmanager
async def crowd(server: Child) -> AsyncIterator[Crowd]:
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    try:
        async with connect(f"ws://{HOST}:{server.port}/ws?token=control&channel=control", compression=None) as control:
            while len(readers) < CLIENTS:
                more = await asyncio.gather(
                    *(loop.create_connection(lambda: Reader(server.port), HOST, server.port) for _ in range(AT_ONCE))
                )
                readers += [reader for _, reader in more]
                await asyncio.gather(*(reader.opened for _, reader in more))
            yield Crowd(server, readers, control)
    finally:
        for reader in readers:
            reader.transport.abort()


async def measure(folder: Path, say: Callable[[str], None]) -> list[Row]:
    """The hub's rows of the report."""
    # A thousand clients here, and as many ends of theirs in each server.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    async with _server("hub", folder) as hub, _server("library", folder) as library:
        before = hub.resident_bytes(), library.resident_bytes()
        async with crowd(hub) as ours, crowd(library) as theirs:
            await asyncio.sleep(0.5)
            per_connection = [
                (each.resident_bytes() - idle) / CLIENTS / 1_024
                for each, idle in zip((hub, library), before, strict=True)
            ]
            say(f"hub: one message to {CLIENTS:,} clients")
            standing = await _compare(ours, theirs)
            say("hub: the same with a dead client among them")
            p99, p99_alone, missing = await _latency(ours)
    return [
        standing,
        Row(
            group="hub",
            what=f"memory of one of {CLIENTS:,} idle connections",
            ours=per_connection[0],
            unit="KB",
            against=YARDSTICK,
            yardstick=per_connection[1],
            at_most=25,
        ),
        Row(
            group="hub",
            what=f"{CLIENTS:,} clients and a dead one, 99 % within",
            ours=p99,
            unit="ms",
            against="without the dead one",
            yardstick=p99_alone,
            at_most=15,
            failed=missing,
        ),
    ]


def _server(kind: str, folder: Path) -> Any:
    command = [sys.executable, "-m", "tests.bench.fanout_server", kind]
    return running(f"fanout-{kind}", command, environment=os.environ, folder=folder, ready="/ready")


async def _compare(ours: Crowd, theirs: Crowd) -> Row:
    rates: tuple[list[float], list[float]] = ([], [])
    failed = 0
    for number in range(ROUNDS + 1):
        for crowd_, kept in zip((ours, theirs), rates, strict=True):
            cpu, missing = await crowd_.broadcast(MESSAGES, PAUSE)
            failed += missing
            if number:  # The first one only warms up.
                kept.append(MESSAGES * CLIENTS / cpu)
    ratio = statistics.median(mine / yours for mine, yours in zip(*rates, strict=True))
    return Row(
        group="hub",
        what="deliveries per second of processor time",
        ours=statistics.median(rates[0]),
        against=YARDSTICK,
        yardstick=statistics.median(rates[1]),
        unit="/s",
        ratio=ratio,
        at_least=1.05,
        failed=failed,
    )


async def _latency(crowd_: Crowd) -> tuple[float, float, int]:
    """Milliseconds until 99 % of the clients have a message while one does not read, and without that one, and how
    many messages got lost."""
    port = crowd_.server.port
    with socket.socket() as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        endpoint.setblocking(False)
        await asyncio.get_running_loop().sock_connect(endpoint, (HOST, port))
        async with connect(f"ws://{HOST}:{port}/ws?token=dead", sock=endpoint, compression=None) as dead:
            await dead.send("{}")
            dead.transport.pause_reading()
            await crowd_.stall()
            with_dead = await _p99(crowd_)
            dead.transport.abort()
    alone = await _p99(crowd_)
    return with_dead[0], alone[0], with_dead[1] + alone[1]


async def _p99(crowd_: Crowd) -> tuple[float, int]:
    """Milliseconds after which 99 % of the clients have a message, in the median of the messages."""
    for reader in crowd_.readers:
        reader.kept = []
    _, missing = await crowd_.broadcast(TIMED_MESSAGES, TIMED_PAUSE)
    delays: dict[int, list[int]] = {}
    for reader in crowd_.readers:
        for arrived, content in reader.kept or ():
            payload = orjson.loads(content)["payload"]
            delays.setdefault(payload["number"], []).append(arrived - payload["at"])
    return statistics.median(sorted(each)[int(len(each) * 0.99)] for each in delays.values()) / 1e6, missing
