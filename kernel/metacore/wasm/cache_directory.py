"""Compiled modules on disk. What lies there is machine code that runs outside the sandbox once it is loaded, so it is
read only from a directory that nobody else can write, and only when it is, bit by bit, what a kernel wrote there.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from metacore.errors import Misconfigured

MAX_ARTIFACTS: Final = 256
"""The least recently used go first; each is a few times the size of its module."""

_PRIVATE: Final = 0o077
"""Permission bits that a private directory must not have."""
_ARTIFACT: Final = ".cwasm"
_RECORD: Final = ".json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An open, verified file. `path` leads to exactly the bytes that were verified, whatever happens to the name."""

    path: str
    descriptor: int
    starts: bool


class CacheDirectory:
    """A directory of mode 0700 that belongs to this user. Every access goes through the descriptor opened at the start,
    so that nobody can put another directory in its place."""

    def __init__(self, path: Path) -> None:
        """Make the directory where it is missing.

        Raises:
            Misconfigured: it is no directory, belongs to somebody else, or others may read or write it.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise Misconfigured(f"the cache of compiled modules {path}: {error.strerror}") from error
        try:
            self._check()
        except Misconfigured:
            self.close()
            raise

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def open(self, name: str) -> Iterator[Artifact | None]:
        """The artifact called `name` for as long as the block runs; None when there is none that is whole.

        Raises:
            Misconfigured: others may write the directory by now.
        """
        self._check()
        try:
            record = orjson.loads(self._read(name + _RECORD))
            digest, starts = str(record["sha256"]), bool(record["starts"])
            descriptor = os.open(name + _ARTIFACT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        except (OSError, ValueError, KeyError, TypeError):
            yield None
            return
        try:
            whole = self._own(os.fstat(descriptor)) and _sha256(descriptor) == digest
            if whole:
                os.utime(descriptor)
            yield Artifact(f"/dev/fd/{descriptor}", descriptor, starts) if whole else None
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes | bytearray, *, starts: bool) -> None:
        """Keep an artifact; a reader sees all of it or nothing. Raises OSError."""
        self._prune()
        record = orjson.dumps({"sha256": hashlib.sha256(content).hexdigest(), "starts": starts})
        self._replace(name + _ARTIFACT, content)
        self._replace(name + _RECORD, record)

    def _check(self) -> None:
        state = os.fstat(self._descriptor)
        if state.st_uid != os.geteuid():
            raise Misconfigured(f"the cache of compiled modules {self.path} belongs to another user")
        if stat.S_IMODE(state.st_mode) & _PRIVATE:
            mode = stat.S_IMODE(state.st_mode)
            raise Misconfigured(f"the cache of compiled modules {self.path} has mode {mode:04o}; it must be 0700")

    @staticmethod
    def _own(state: os.stat_result) -> bool:
        return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & 0o022

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(1_000)

    def _replace(self, name: str, content: bytes | bytearray) -> None:
        temporary = f".{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self._descriptor)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.rename(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise

    def _prune(self) -> None:
        with os.scandir(self._descriptor) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(_ARTIFACT)]
        if len(names) < MAX_ARTIFACTS:
            return
        ages: list[tuple[float, str]] = []
        for name in names:
            with contextlib.suppress(OSError):
                ages.append((os.stat(name, dir_fd=self._descriptor).st_mtime, name))
        for _, name in sorted(ages)[: len(names) - MAX_ARTIFACTS + 1]:
            for victim in (name.removesuffix(_ARTIFACT) + _RECORD, name):
                with contextlib.suppress(OSError):
                    os.unlink(victim, dir_fd=self._descriptor)


def _sha256(descriptor: int) -> str:
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            return hashlib.sha256(content).hexdigest()
    except ValueError:  # An empty file cannot be mapped.
        return ""
