"""Bundles that are files below one configured root."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from metacore.errors import Refused, Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.sources.source import LARGEST_BUNDLE, LARGEST_SIGNATURE, Fetched, Look, Stored, nothing_stored

SIGNATURE_SUFFIX = ".sig.json"


class FolderSource:
    """Reads `spec.source.path` relative to `root`, and the signature from `<bundle>.sig.json`.

    Links are followed only where they stay below `root`, so an Addon cannot make the operator read its own files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        path = addon.spec.source.path
        if path is None:
            raise Refused("the Addon names no path", code="source_refused")
        return await asyncio.to_thread(self._fetch, path)

    def locate(self, path: str) -> Path:
        """Where `path` is, links resolved.

        Raises:
            Refused: outside the root.
            Unavailable: nothing there.
        """
        root = self._root.resolve()
        if Path(path).is_absolute() or "\0" in path:
            raise Refused(f"path {path!r} must be relative to the addons folder", code="source_refused")
        try:
            found = (root / path).resolve()
        except (OSError, RuntimeError) as error:  # A loop of links is a RuntimeError.
            raise Refused(f"path {path!r} cannot be resolved", code="source_refused") from error
        # Before looking whether it exists: what exists outside the root is not the Addon's to ask.
        if not found.is_relative_to(root):
            raise Refused(f"path {path!r} leads out of the addons folder", code="source_refused")
        if not found.exists():
            raise Unavailable(f"no file {path!r} in the addons folder")
        return found

    def _fetch(self, path: str) -> Fetched:
        content = self._read(path, LARGEST_BUNDLE)
        try:
            signature = self._read(path + SIGNATURE_SUFFIX, LARGEST_SIGNATURE)
        except Unavailable:
            signature = None
        return Fetched(content, signature, path)

    def _read(self, path: str, limit: int) -> bytes:
        found = self.locate(path)
        try:
            # O_NOFOLLOW: what was resolved must not have become a link since. O_NONBLOCK: a FIFO must not hang.
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"cannot read {path!r}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{path!r} is not a file", code="source_refused")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise Refused(f"{path!r} is larger than {limit} bytes", code="source_refused")
        return content
