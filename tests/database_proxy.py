"""A way to the database that can be cut: what a failover, a lost node or a broken network look like to a kernel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy.engine import make_url
from tests.conftest import DatabaseUrls


@dataclass
class DatabaseProxy:
    """`urls` are those that were given, with the kernel's leading through this proxy."""

    urls: DatabaseUrls
    _up: bool = True
    _fatal: tuple[bytes, ...] = ()
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break what is connected; who comes is turned away until `mend`."""
        self._up = False
        for writer in self._writers:
            writer.transport.abort()

    def cut_at(self, *words: bytes) -> None:
        """`cut` as soon as one connection sent all of `words`, in this order; what holds the last is never answered."""
        self._fatal = words

    def mend(self) -> None:
        self._up, self._fatal = True, ()

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        server = make_url(self.urls.owner)
        there, back = await asyncio.open_connection(server.host, server.port)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        finally:
            self._writers -= {writer, back}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
                while heard < len(self._fatal) and self._fatal[heard] in data:
                    heard += 1
                if self._fatal and heard >= len(self._fatal):
                    self.cut()
        writer.close()


@asynccontextmanager
async def database_proxy(urls: DatabaseUrls) -> AsyncIterator[DatabaseProxy]:
    proxy = DatabaseProxy(urls)
    server = await asyncio.start_server(proxy._between, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    kernel = make_url(urls.kernel).set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    proxy.urls = replace(urls, kernel=kernel)
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
        await server.wait_closed()
