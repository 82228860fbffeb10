"""Closed loops over HTTP/1.1 and over plain calls, costing little enough not to be what is measured."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = b"content-length: "
LAST_REPLY_SECONDS = 30
"""How long the replies that are on their way when time is up may take."""

PROBLEM_BYTES = 500

NextRequest = Callable[[], bytes]
"""Gives the bytes of the next request; called once per request of every connection."""


@dataclass(frozen=True, slots=True)
class Result:
    """`requests` answered in `seconds`. `failed` counts replies outside 2xx and connections that were lost; `problem`
    is one of these replies, or what happened to a connection."""

    requests: int
    seconds: float
    failed: int = 0
    problem: str = ""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the reply of the last is complete."""

    def __init__(self, next_request: NextRequest) -> None:
        self._next = next_request
        self._buffer = bytearray()
        self._needed = 0
        self._refused = False
        self.answered = 0
        self.failed = 0
        self.problem = ""
        self.running = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._next())

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
            self._refused = head[9:10] != b"2"
        if len(self._buffer) < self._needed:
            return
        self.answered += 1
        if self._refused:
            self._fail(bytes(self._buffer[:PROBLEM_BYTES]).decode(errors="replace"))
        self._buffer.clear()
        self._needed = 0
        if self.running:
            self.transport.write(self._next())
        else:
            self._finish()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self._fail("the server closed the connection")
            self.done.set_result(None)

    def _fail(self, problem: str) -> None:
        self.failed += 1
        self.problem = self.problem or problem

    def _finish(self) -> None:
        self.done.set_result(None)
        self.transport.close()


async def drive(host: str, port: int, next_request: NextRequest, *, connections: int, seconds: float) -> Result:
    """Keep `connections` busy for `seconds` and tell how it went.

    Raises:
        OSError: the server does not take the connections.
    """
    loop = asyncio.get_running_loop()
    opened: list[_Connection] = []

    def another() -> _Connection:
        opened.append(_Connection(next_request))
        return opened[-1]

    try:
        for _ in range(connections):
            await loop.create_connection(another, host, port)
        started, before = time.perf_counter(), sum(connection.answered for connection in opened)
        await asyncio.sleep(seconds)
        elapsed, after = time.perf_counter() - started, sum(connection.answered for connection in opened)
        for connection in opened:
            connection.running = False
        _, waiting = await asyncio.wait([connection.done for connection in opened], timeout=LAST_REPLY_SECONDS)
    finally:
        for connection in opened:
            if not connection.done.done():
                connection.transport.abort()
    problems = [connection.problem for connection in opened if connection.problem] + ["no answer"] * bool(waiting)
    failed = sum(connection.failed for connection in opened) + len(waiting)
    return Result(after - before, elapsed, failed, problems[0] if problems else "")


async def drive_calls(calls: Sequence[Callable[[], Awaitable[object]]], *, seconds: float) -> Result:
    """The same closed loop without HTTP, one for each of `calls`. What a call raises ends the measurement."""
    stop_at = time.perf_counter() + seconds

    async def repeat(call: Callable[[], Awaitable[object]]) -> int:
        count = 0
        while time.perf_counter() < stop_at:
            await call()
            count += 1
        return count

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(repeat(call)) for call in calls]
    return Result(sum(task.result() for task in tasks), time.perf_counter() - started)


def request(method: str, path: str, *, token: str, body: bytes = b"") -> bytes:
    """The bytes of one keep-alive request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Authorization: Bearer {token}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + HEAD_END + body


def cycle(requests: Sequence[bytes]) -> NextRequest:
    """Hand out `requests` in turn, for ever."""
    return itertools.cycle(requests).__next__
