"""Other people's servers, on loopback: they record what they get and answer byte for byte what a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TLS = Path(__file__).parent / "fixtures" / "tls"


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came over the wire. Header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Outside:
    """A server that runs. `connections` counts all that were ever accepted."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


Answer = Callable[[Received], bytes | Awaitable[bytes]]


def reply(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A whole response; `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if not any(name.lower() in ("content_length", "transfer_encoding") for name in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def outside(answer: Answer, *, tls: bool = False, host: str = "127.0.0.1") -> AsyncIterator[Outside]:
    """A server that answers with whatever `answer` gives; with `tls` as api.example.com and other.example.com.
    Empty bytes end the connection."""
    server = Outside()
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while True:
                    said = answer(received := await _read(reader))
                    server.received.append(received)
                    content = said if isinstance(said, bytes) else await said
                    if not content:
                        break
                    writer.write(content)
                    await writer.drain()
        except asyncio.CancelledError:
            pass  # The test is over.
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    listening = await asyncio.start_server(serve, host, 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        waiting = list(tasks)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await listening.wait_closed()


def trust_of_tests() -> ssl.SSLContext:
    """What a client needs to accept the certificate of `outside(..., tls=True)`."""
    return ssl.create_default_context(cafile=str(TLS / "authority.pem"))


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)
