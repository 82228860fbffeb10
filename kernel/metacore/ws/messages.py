"""What travels to clients: `{"type": …, "payload": …}`, encoded and framed once however many get it."""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Any, Final

import orjson

TEXT_FRAME: Final = 0x81
"""FIN and opcode 1 (RFC 6455, 5.2): one whole text message, without extensions."""


class MessageType(StrEnum):
    """The kernel's own types; any other text is fine too."""

    NOTIFICATION = "NOTIFICATION"
    STATUS_UPDATE = "STATUS_UPDATE"
    CUSTOM = "CUSTOM"


class Message:
    """One message. `payload` is anything that JSON can say; it is read when the message is first sent."""

    __slots__ = ("_frame", "_text", "payload", "type")

    def __init__(self, type: str, payload: Any) -> None:
        self.type = str(type)
        self.payload = payload
        self._text: bytes | None = None
        self._frame: bytes | None = None

    @property
    def text(self) -> bytes:
        """The JSON of the message.

        Raises:
            TypeError: `payload` holds something that JSON has no form for.
        """
        if self._text is None:
            self._text = orjson.dumps(
                {"type": self.type, "payload": self.payload}, default=str, option=orjson.OPT_UTC_Z
            )
        return self._text

    @property
    def frame(self) -> bytes:
        """The WebSocket frame of `text`, as a server sends it: not masked."""
        if self._frame is None:
            text = self.text
            size = len(text)
            if size < 126:
                header = struct.pack("!BB", TEXT_FRAME, size)
            elif size < 65_536:
                header = struct.pack("!BBH", TEXT_FRAME, 126, size)
            else:
                header = struct.pack("!BBQ", TEXT_FRAME, 127, size)
            self._frame = header + text
        return self._frame

    def __repr__(self) -> str:
        return f"Message({self.type!r})"
