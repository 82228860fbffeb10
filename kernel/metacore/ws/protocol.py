"""uvicorn's WebSocket protocol with a way past the application: a frame that is made already goes straight out.

Give it to uvicorn with `UVICORN_OPTIONS`. The application finds it under `scope["extensions"][EXTENSION]`. Pinned to
uvicorn's `WebSocketsSansIOProtocol`, whose state it shares; the tests run a real server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from metacore.ws.connection import QUEUE_BYTES, QUEUE_MESSAGES
from metacore.ws.messages import Message

EXTENSION: Final = "metacore.broadcast"
MAX_INBOUND_BYTES: Final = 65_536
"""The largest message of a client; more closes with 1009."""

CLOSE_SECONDS: Final = 5.0
"""How long a peer may take to read what is left and to answer a close, before the connection is cut."""


class Mailbox:
    """What `asyncio.Queue` does for one reader, without its four deques: 3 KB less for each idle connection."""

    __slots__ = ("_items", "_reader")

    def __init__(self) -> None:
        self._items: list[ASGIReceiveEvent] = []
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, item: ASGIReceiveEvent) -> None:
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def empty(self) -> bool:
        return not self._items

    async def get(self) -> ASGIReceiveEvent:
        while not self._items:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.pop(0)


class BroadcastProtocol(WebSocketsSansIOProtocol):
    """A `Sink`: `push` and `end` write to the transport at once and never wait."""

    _backlog: deque[int] | None = None
    _backlog_bytes = 0
    _abort_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.queue = Mailbox()  # type: ignore[assignment]

    def push(self, message: Message) -> bool:
        transport = self.transport
        if self.close_sent or transport.is_closing():
            return True
        waiting = transport.get_write_buffer_size()
        if waiting:
            if not self._has_room(waiting):
                return False
            assert self._backlog is not None
            self._backlog.append(len(message.frame))
            self._backlog_bytes += len(message.frame)
        elif self._backlog is not None:
            self._backlog = None
            self._backlog_bytes = 0
        transport.write(message.frame)
        return True

    def end(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            # The peer closes already.
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # With a timer of its own set, uvicorn leaves the transport open until the peer has answered.
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _has_room(self, waiting: int) -> bool:
        """Whether one more message may wait. The transport knows bytes only, so sizes of messages are kept while
        something waits, and dropped from the front as far as it has been sent."""
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = deque()
        while backlog and self._backlog_bytes - backlog[0] >= waiting:
            self._backlog_bytes -= backlog.popleft()
        return len(backlog) < QUEUE_MESSAGES and waiting < QUEUE_BYTES

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope: dict[str, Any] | None = getattr(self, "scope", None)
        if scope is not None:
            # The application's task runs only after this, so it sees the extension.
            scope["extensions"][EXTENSION] = self

    def start_keepalive(self) -> None:
        # The handshake is done; its request and response would stay in memory as long as the connection.
        del self.request, self.response
        super().start_keepalive()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None
        scope: dict[str, Any] | None = getattr(self, "scope", None)
        if scope is not None:
            # Breaks the circle of references, so that memory is free at once.
            scope["extensions"].pop(EXTENSION, None)
        super().connection_lost(exc)

    # Closing a transport waits until its buffer is sent, for a peer that does not read: forever. Wherever uvicorn
    # closes one, it is cut after a while.

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._abort_later()

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._abort_later()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_later()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_later()

    def shutdown(self) -> None:
        super().shutdown()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._abort_timer is None and not self.disconnected:
            self._abort_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


UVICORN_OPTIONS: Final[dict[str, Any]] = {
    "ws": BroadcastProtocol,
    "ws_per_message_deflate": False,
    "ws_max_size": MAX_INBOUND_BYTES,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
}
"""For `uvicorn.Config`. Compression would cost 37 KB a connection and half the CPU of a broadcast."""
