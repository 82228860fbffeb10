"""Password hashes: argon2id, in few threads of their own, so that a flood of logins starves nothing else."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from metacore.auth.config import AuthConfig
from metacore.auth.rules import MAX_PASSWORD
from metacore.errors import TooManyRequests

T = TypeVar("T")

SALT_BYTES = 16
HASH_BYTES = 32
BUSY_SECONDS = 2.0


class Passwords:
    """Hashes and verifies, at most `hash_concurrency` at a time; `hash_queue` more may wait, the rest are refused."""

    def __init__(self, config: AuthConfig) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=config.hash_time_cost,
            memory_cost=config.hash_memory_kib,
            parallelism=1,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
            type=argon2.Type.ID,
        )
        self._threads = config.hash_concurrency
        self._places = threading.BoundedSemaphore(config.hash_concurrency + config.hash_queue)
        self._executor: ThreadPoolExecutor | None = None
        parameters = f"m={config.hash_memory_kib},t={config.hash_time_cost},p=1"
        # Random bytes in place of a hash: no password matches, and verifying costs what a real one costs.
        self._dummy = f"$argon2id$v=19${parameters}${_unpadded(SALT_BYTES)}${_unpadded(HASH_BYTES)}"

    async def hash(self, password: str) -> str:
        """The encoded argon2id hash of `password`.

        Raises:
            TooManyRequests: too many hashes wait already.
        """
        return await self._run(lambda: self._argon2.hash(_octets(password)))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether `encoded` is the hash of `password`. None stands for an unknown user: false, after the same work.

        Raises:
            TooManyRequests: too many hashes wait already.
        """
        if encoded is None or len(password) > MAX_PASSWORD:
            encoded, password = self._dummy, password[:MAX_PASSWORD]
        return await self._run(lambda: self._matches(encoded, password))

    def needs_rehash(self, encoded: str) -> bool:
        """Whether `encoded` was made with other parameters than the configured ones."""
        try:
            return self._argon2.check_needs_rehash(encoded)
        except InvalidHashError:
            return True

    def close(self) -> None:
        """Drop what waits; a hash that runs ends by itself within its usual time."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._argon2.verify(encoded, _octets(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise TooManyRequests("too many logins at once: try again", retry_after=BUSY_SECONDS, code="busy")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="metacore-argon2")
        try:
            future = self._executor.submit(work)
        except BaseException:
            self._places.release()
            raise
        # Counted by the work, not by the caller: one that goes away does not free a place before its hash is done.
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def _release(self, _future: Future[T]) -> None:
        self._places.release()


def _octets(password: str) -> bytes:
    # NFC, so that one password typed on two systems is one password (RFC 8265, 4.2.2).
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _unpadded(count: int) -> str:
    return base64.b64encode(os.urandom(count)).rstrip(b"=").decode()
