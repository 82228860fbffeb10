"""The plain way, for servers that are not ours: a bounded queue and a task for each connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from metacore.ws.connection import QUEUE_BYTES, QUEUE_MESSAGES
from metacore.ws.messages import Message

CLOSE_SECONDS: Final = 5.0

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class QueuedSink:
    """A `Sink` over ASGI's `send`. `closed` is set when the connection is over and its endpoint should return."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._cut: asyncio.TimerHandle | None = None
        self.closed = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name="ws-writer")

    @property
    def closing(self) -> bool:
        """Whether the hub has ended the connection; `closed` follows within seconds."""
        return self._closing is not None

    def push(self, message: Message) -> bool:
        if self._closing is not None or self.closed.is_set():
            return True
        if len(self._waiting) >= QUEUE_MESSAGES or self._waiting_bytes >= QUEUE_BYTES:
            return False
        self._waiting.append(message.text)
        self._waiting_bytes += len(message.text)
        self._more.set()
        return True

    def end(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._waiting.clear()
            self._more.set()
            # A writer that is stuck in `send` never comes to the close: it is given up, and the server cuts it off.
            self._cut = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._writer.cancel)

    async def stop(self) -> None:
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer

    async def _write(self) -> None:
        try:
            while self._closing is None:
                self._more.clear()
                while self._waiting:
                    text = self._waiting.popleft()
                    self._waiting_bytes -= len(text)
                    await self._send({"type": "websocket.send", "text": text.decode()})
                if self._closing is None:
                    await self._more.wait()
            code, reason = self._closing
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:
            # The client is gone; servers say so by an OSError (ASGI 2.4).
            return
        finally:
            if self._cut is not None:
                self._cut.cancel()
            self.closed.set()
