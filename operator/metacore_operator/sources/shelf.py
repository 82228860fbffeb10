"""Bundles that were fetched and are not installed: refused ones, and those that wait for somebody's word.

They are looked at again and again, with other keys, another spec or another database, and need not travel each time.

They lie in files without a name, so nothing of them outlives the process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from metacore.bundle.read import digest_of
from metacore.logs import get_logger

log = get_logger(__name__)

MOST_BYTES = 512 * 1024 * 1024
"""Half of what the chart gives the operator's /tmp."""
MOST_FILES = 256
"""Each keeps a file open."""


class _File:
    """A file without a name, open as long as somebody knows it: also while it is read and makes room for another."""

    def __init__(self, content: bytes) -> None:
        with tempfile.TemporaryFile(prefix="metacore-bundle-", buffering=0) as file:
            with memoryview(content) as rest:
                done = 0
                while done < len(rest):
                    done += file.write(rest[done:])
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, size: int, digest: str) -> bytes | None:
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            content = file.read(size)
        return content if digest_of(content) == digest else None


@dataclass(frozen=True, slots=True)
class _Shelved:
    digest: str
    size: int
    file: _File


class Shelf:
    """One bundle for each Addon, by its uid; those that were not used for longest go when it gets too much."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> None:
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._known: OrderedDict[str, _Shelved] = OrderedDict()
        self._bytes = 0

    async def keep(self, uid: str, digest: str, content: bytes) -> None:
        """Keep `content`, whose SHA-256 in hex is `digest`, instead of what was kept for this Addon before."""
        known = self._known.get(uid)
        if known is not None and known.digest == digest:
            return
        try:
            file = await asyncio.to_thread(_File, content)
        except OSError as error:
            # It is fetched once more then.
            log.warning("bundle.not_shelved", error=error.strerror)
            return
        self.forget(uid)
        self._known[uid] = _Shelved(digest, len(content), file)
        self._bytes += len(content)
        while self._bytes > self._most_bytes or len(self._known) > self._most_files:
            self.forget(next(iter(self._known)))

    async def recall(self, uid: str, digest: str) -> bytes | None:
        """The bytes of `digest`, when they are kept for this Addon and are still what they were."""
        known = self._known.get(uid)
        if known is None or known.digest != digest:
            return None
        self._known.move_to_end(uid)
        try:
            return await asyncio.to_thread(known.file.read, known.size, digest)
        except OSError:
            return None

    def forget(self, uid: str) -> None:
        known = self._known.pop(uid, None)
        if known is not None:
            self._bytes -= known.size
