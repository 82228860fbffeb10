"""Bodies that carry a file: spooled as they come, so that of a large one no more than a piece is in memory, and within
bounds of size and of time, since whoever sends one holds a slot that others wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from metacore.errors import InvalidInput, PayloadTooLarge, TooSlow

FORM_OVERHEAD = 65_536
"""Bytes that a form may have besides its files: boundaries, headers, small fields."""
SPOOLED_BYTES = 1_048_576
"""In memory; what is longer goes to a temporary file. Starlette's parser does the same with files of forms."""
RECEIVE_SECONDS = 120.0
"""A body has come as a whole by then, however large it is, or is given up: 64 MiB take 560 KiB a second."""


class _TooLarge(MultiPartException):
    """Of this kind, so that the parser closes what it has spooled."""


class _TooSlow(MultiPartException):
    """As `_TooLarge`."""


@asynccontextmanager
async def uploaded_form(
    request: Request, what: str, max_bytes: int, *, max_files: int, max_fields: int, max_part_size: int, other: int = 0
) -> AsyncIterator[FormData]:
    """The form in the body, closed when the block ends. `what` is what its file is called, which has `max_bytes` at
    most; `other` is what its other parts may have.

    Raises:
        InvalidInput: it cannot be read.
        PayloadTooLarge: as soon as more has come. TooSlow: it did not come within `RECEIVE_SECONDS`.
    """
    with _refusals(what, max_bytes):
        stream = _bounded(request.stream(), max_bytes + other + FORM_OVERHEAD)
        parser = MultiPartParser(
            request.headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size
        )
        form = await parser.parse()
    try:
        yield form
    finally:
        await form.close()


@asynccontextmanager
async def uploaded_body(request: Request, what: str, max_bytes: int, filename: str) -> AsyncIterator[UploadFile]:
    """The body itself as a file, closed when the block ends. Raises as `uploaded_form` does."""
    spool = SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115 - closed below.
    file = UploadFile(cast(BinaryIO, spool), filename=filename)
    try:
        with _refusals(what, max_bytes):
            async for chunk in _bounded(request.stream(), max_bytes):
                await file.write(chunk)
        await file.seek(0)
        yield file
    finally:
        await file.close()


@contextmanager
def _refusals(what: str, max_bytes: int) -> Iterator[None]:
    try:
        yield
    except _TooLarge:
        raise PayloadTooLarge(f"the {what} is larger than {max_bytes} bytes") from None
    except _TooSlow:
        raise TooSlow(f"the {what} comes too slowly: it has {RECEIVE_SECONDS:g} seconds") from None
    except MultiPartException as error:
        raise InvalidInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    except (ValueError, LookupError) as error:
        # A boundary or character set that nobody knows.
        raise InvalidInput("the form cannot be read: its headers are broken", code="invalid_form") from error


async def _bounded(stream: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    deadline, size = asyncio.get_running_loop().time() + RECEIVE_SECONDS, 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise _TooSlow("too slow") from None
        if chunk is None:
            return
        size += len(chunk)
        if size > limit:
            raise _TooLarge("too large")
        yield chunk
