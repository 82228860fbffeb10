"""One process of many leads: whoever holds an advisory lock on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import asyncpg

from metacore.db.sockets import Watched

CONNECT_SECONDS: Final = 10.0
STATEMENT_SECONDS: Final = 30.0

LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a statement raises when the database or the way to it is gone; a TimeoutError is an OSError too."""


class Leadership:
    """A session-level advisory lock. It is lost with its connection, and the connection with the process.

    Only statements sent through `execute` and `fetchrow` are sent as leader: they use the connection that holds the
    lock, so a process that lost it cannot act on an old belief.
    """

    def __init__(self, direct_url: str, key: int, *, on_lost: Callable[[], None] | None = None) -> None:
        """`direct_url` must not lead through a pooler; `key` is the lock's 64-bit number, one lock per database."""
        self._url = direct_url
        self._key = key
        self._on_lost = on_lost
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self.leading = False

    async def try_lead(self) -> bool:
        """Take the lock when nobody holds it. Does not wait for it.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: no connection; call `close` before trying again.
        """
        if not self.leading:
            self.leading = bool(await (await self._connected()).fetchval("SELECT pg_try_advisory_lock($1)", self._key))
        return self.leading

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        return await (await self._connected()).fetchrow(statement, *arguments)

    async def close(self) -> None:
        """Give the lock up and close the connection."""
        self.leading = False
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.close(timeout=1.0)
        except LOST:
            connection.terminate()

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self.leading = False
            self._connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS,
                server_settings={"application_name": "metacore-relay"},
                connection_class=Watched,
            )
            self._connection.add_termination_listener(self._terminated)
        return self._connection

    def _terminated(self, connection: object) -> None:
        if connection is self._connection:
            self.leading = False
            if self._on_lost is not None:
                self._on_lost()
