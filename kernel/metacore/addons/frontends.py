"""Frontend files of addons, by the digest of their bundle, from a cache that only this process can write."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from metacore.addons.stored import read_bundle_row
from metacore.bundle.read import digest_of, read_bundle
from metacore.db.database import Database
from metacore.errors import NotFound, Unavailable

PRIVATE = 0o700
CONTENT_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}
"""Types that browsers insist on; the machine's own table may say something else, or nothing."""
_HASHED_NAME = re.compile(r"[.-](?=[0-9A-Za-z_-]*[0-9])[0-9A-Za-z_-]{8,}\.[a-z0-9]+(\.map)?$")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FrontendFile:
    """`hashed` tells that the name carries a hash of the content, as bundlers write it: it never changes then."""

    content: bytes
    content_type: str
    etag: str
    hashed: bool


class FrontendStore:
    """Unpacks a bundle's `frontend/` once per digest. `cache_dir` '' means a temporary folder of this process."""

    def __init__(self, database: Database, *, cache_dir: str = "") -> None:
        self._database = database
        self._cache_dir = cache_dir
        self._root: Path | None = None
        self._removal: weakref.finalize[[Path, bool], FrontendStore] | None = None
        self._locks: dict[str, asyncio.Lock] = {}

    async def read(self, digest: str, path: str) -> FrontendFile:
        """The file at `path` (relative, with `/`) in the frontend of the bundle with this digest.

        Raises:
            NotFound: no such file; a path that leads outside has none either.
        """
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\\" in path or "\0" in path or any(part == ".." for part in parts):
            raise NotFound("no such frontend file", code="unknown_file")
        folder = await self._folder(digest)
        return await asyncio.to_thread(_read_file, folder, parts)

    def close(self) -> None:
        """Remove the temporary folder now; it goes with the store or the process anyway. A given cache stays for the
        next start."""
        self._root = None
        if self._removal is not None:
            self._removal()

    async def _folder(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFound("no such bundle", code="unknown_file")
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            root = await asyncio.to_thread(self._prepared_root)
            folder = root / digest
            if not folder.is_dir():
                stored = await read_bundle_row(self._database, digest)
                await asyncio.to_thread(_unpack, stored.content, digest, folder)
        return folder

    def _prepared_root(self) -> Path:
        """The cache's folder, private to this user.

        Raises:
            Unavailable: somebody else could write there.
        """
        if self._root is None:
            root = (
                Path(self._cache_dir) / "frontends" if self._cache_dir else Path(tempfile.mkdtemp(prefix="metacore-"))
            )
            root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            facts = root.stat()
            if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
                raise Unavailable(f"the cache folder {root} can be written by others; make it private (chmod 700)")
            self._root = root
            if not self._cache_dir:
                self._removal = weakref.finalize(self, shutil.rmtree, root, True)
        return self._root


def _unpack(content: bytes, digest: str, folder: Path) -> None:
    """Write the frontend files beside `folder` and rename at the end: a kill leaves nothing half."""
    if digest_of(content) != digest:
        raise NotFound("the stored bundle is not what its digest says", code="unknown_file")
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{digest[:12]}-"))
    try:
        for path, data in read_bundle(content).frontend.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            fresh.rename(folder)
        except OSError:
            # Another process of this user was quicker; its files are the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _read_file(folder: Path, parts: tuple[str, ...]) -> FrontendFile:
    target = folder.joinpath(*parts)
    try:
        inside = target.is_file() and target.resolve().is_relative_to(folder.resolve())
        content = target.read_bytes() if inside else None
    except OSError:
        # A name longer than the file system takes.
        content = None
    if content is None:
        raise NotFound("no such frontend file", code="unknown_file")
    suffix = target.suffix.lower()
    guessed = CONTENT_TYPES.get(suffix) or mimetypes.guess_type(target.name)[0] or "application/octet-stream"
    return FrontendFile(
        content=content,
        content_type=guessed,
        etag=sha256(content).hexdigest()[:32],
        hashed=_HASHED_NAME.search(target.name) is not None,
    )
