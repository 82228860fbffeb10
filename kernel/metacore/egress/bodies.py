"""Reading response bodies within a limit that also holds for what they unpack to."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, Iterator
from typing import Final

from metacore.errors import PayloadTooLarge, Unavailable

PIECE: Final = 256 * 1024
"""Bytes unpacked between two looks at the limit, and at the event loop."""

_GZIP: Final = 16 + zlib.MAX_WBITS


async def read_body(chunks: AsyncIterable[bytes], limit: int, *, gzip: bool, origin: str) -> bytes:
    """Everything in `chunks`, unpacked when `gzip`.

    Raises:
        PayloadTooLarge: more than `limit` bytes, as received or unpacked.
        Unavailable: it is called gzip and is not, or ends early.
    """
    body = bytearray()
    unpacker = _Gunzip(origin) if gzip else None
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > limit:
            raise _too_large(origin, limit)
        if unpacker is None:
            body += chunk
            continue
        for piece in unpacker.pieces(chunk):
            body += piece
            if len(body) > limit:
                raise _too_large(origin, limit)
            await asyncio.sleep(0)
    if unpacker is not None:
        unpacker.finish()
    return bytes(body)


def _too_large(origin: str, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the response of {origin} is larger than {limit} bytes", code="response_too_large")


class _Gunzip:
    """One gzip stream of one or several members (RFC 1952)."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, PIECE bytes at most at a time."""
        piece = b""
        # A full piece may have left some in the unpacker, although all of the input is taken.
        while data or len(piece) == PIECE:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            self._begun = True
            try:
                piece = self._member.decompress(data, PIECE)
            except zlib.error:
                raise Unavailable(f"the response of {self._origin} is no valid gzip") from None
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield piece
            if self._member.eof and not data:
                return

    def finish(self) -> None:
        if self._begun and not self._member.eof:
            raise Unavailable(f"the response of {self._origin} ended early")
