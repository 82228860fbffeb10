"""A closed-loop HTTP/1.1 load generator that costs little enough not to be what is measured."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = b"content-length: "

NextRequest = Callable[[], bytes]
"""Gives the bytes of the next request; called once per request of every connection."""


@dataclass(frozen=True)
class Result:
    """`per_second` requests over `seconds`; latencies in milliseconds; `failed` counts replies outside 2xx."""

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the reply of the last is complete."""

    def __init__(self, next_request: NextRequest, latencies: list[float]) -> None:
        self._next = next_request
        self._latencies = latencies
        self._buffer = bytearray()
        self._needed = 0
        self._sent_at = 0.0
        self.failed = 0
        self.running = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._next())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(HEAD_END)
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.find(CONTENT_LENGTH)
            length = int(head[at + len(CONTENT_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._needed = end + len(HEAD_END) + length
            if head[9:10] != b"2":
                self.failed += 1
        if len(self._buffer) < self._needed:
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._buffer.clear()
        self._needed = 0
        if self.running:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def drive(host: str, port: int, next_request: NextRequest, *, connections: int, seconds: float) -> Result:
    """Keep `connections` busy for `seconds` and tell how it went.

    Raises:
        OSError: the server does not take the connections.
    """
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    opened = [
        (await loop.create_connection(lambda: _Connection(next_request, latencies), host, port))[1]
        for _ in range(connections)
    ]
    started = time.perf_counter()
    before = len(latencies)
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    counted = latencies[before:]
    for connection in opened:
        connection.running = False
    await asyncio.wait([connection.done for connection in opened], timeout=10)
    counted.sort()
    return Result(
        requests=len(counted),
        seconds=elapsed,
        failed=sum(connection.failed for connection in opened),
        p50=counted[len(counted) // 2] * 1000 if counted else 0.0,
        p99=counted[int(len(counted) * 0.99)] * 1000 if counted else 0.0,
    )


async def drive_calls(call: Callable[[], asyncio.Future[object]], *, connections: int, seconds: float) -> Result:
    """The same closed loop over a coroutine instead of HTTP: the yardstick."""
    latencies: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def worker() -> None:
        while (now := time.perf_counter()) < stop_at:
            await call()
            latencies.append(time.perf_counter() - now)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Result(
        requests=len(latencies),
        seconds=elapsed,
        failed=0,
        p50=latencies[len(latencies) // 2] * 1000 if latencies else 0.0,
        p99=latencies[int(len(latencies) * 0.99)] * 1000 if latencies else 0.0,
    )


def request(method: str, path: str, *, token: str, body: bytes = b"") -> bytes:
    """The bytes of one keep-alive request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Authorization: Bearer {token}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + HEAD_END + body


def cycle(requests: list[bytes]) -> NextRequest:
    """Hand out `requests` in turn, for ever."""
    endless = itertools.cycle(requests)
    return lambda: next(endless)
