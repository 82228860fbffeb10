"""Connections of the hot paths, kept at hand between statements that follow each other closely.

Taking a connection out of asyncpg's pool and giving it back costs a task and about 20 µs of processor time, more than
the rest of a short statement in this process. So most of the pool's connections stay with the hot paths while they are
busy there. One that nobody needed for a moment goes back, and two are never taken, for the pool's other users.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary, ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from metacore.db.database import Database

IDLE_SECONDS = 0.01
"""A connection that was unused for that long goes back to the pool, at the latest after twice the time."""

LEFT_TO_OTHERS = 2

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

STILL_GOOD = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.RaiseError)
"""Errors of a statement, not of its connection."""


class Connections(Protocol):
    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[asyncpg.Record]:
        """The rows of one statement. Raises what asyncpg raises."""
        ...


class OneConnection:
    """Statements on one connection, in the transaction that it is in; who holds the connection ends that."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
        return rows


_kept: WeakKeyDictionary[Database, HotConnections] = WeakKeyDictionary()


def connections_of(db: Database) -> HotConnections:
    """The hot connections of a database: one set, however many services work on it."""
    known = _kept.get(db)
    if known is None:
        known = _kept[db] = HotConnections(db)
    return known


class HotConnections:
    """Runs single statements, each a transaction of its own, over connections of `db.postgres`.

    Belongs to one event loop. Nothing session-level may be left on a connection.
    """

    def __init__(self, db: Database, *, idle_seconds: float = IDLE_SECONDS) -> None:
        # Weakly, because `connections_of` keeps this for as long as the database lives.
        self._db = ref(db)
        self._idle_seconds = idle_seconds
        self._pool: Pool | None = None
        self._held = 0
        self._idle: list[Pooled] = []
        self._unneeded = 0
        self._waiting: deque[asyncio.Future[Pooled | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Task[None]] = set()

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[asyncpg.Record]:
        """The rows of one statement. Raises what asyncpg raises."""
        db = self._db()
        assert db is not None, "the caller holds the database"
        pool = db.postgres
        if pool is not self._pool:
            self._start_over(pool)
        most = pool.get_max_size() - LEFT_TO_OTHERS
        if most < 1:
            return await pool.fetch(sql, *arguments)
        connection = await self._take(pool, most)
        try:
            rows: Sequence[asyncpg.Record] = await connection.fetch(sql, *arguments)
        except STILL_GOOD:
            self._give(connection)
            raise
        except BaseException:
            self._part_with(connection)
            raise
        self._give(connection)
        return rows

    async def _take(self, pool: Pool, most: int) -> Pooled:
        while True:
            while self._idle:
                connection = self._idle.pop()
                self._unneeded = min(self._unneeded, len(self._idle))
                if not connection.is_closed():
                    return connection
                self._part_with(connection)
            if self._held < most:
                return await self._borrow(pool)
            given = await self._wait()
            if given is not None:
                return given

    async def _borrow(self, pool: Pool) -> Pooled:
        self._held += 1
        try:
            connection = await pool.acquire()
        except BaseException:
            self._held -= 1
            self._call_next()
            raise
        return connection

    async def _wait(self) -> Pooled | None:
        """The connection that somebody is done with, or None when there is room to borrow one."""
        turn: asyncio.Future[Pooled | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                given = turn.result()
                if given is not None:
                    self._give(given)
                else:
                    self._call_next()
            raise

    def _give(self, connection: Pooled) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self._idle.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._look)

    def _call_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _look(self) -> None:
        """Give back the connections that were idle all the time since the last look."""
        self._timer = None
        unneeded, self._idle = self._idle[: self._unneeded], self._idle[self._unneeded :]
        for connection in unneeded:
            self._part_with(connection)
        self._unneeded = len(self._idle)
        if self._idle:
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._look)

    def _start_over(self, pool: Pool) -> None:
        """The database was closed and opened again: nothing of the old pool is of use."""
        for connection in self._idle:
            self._part_with(connection)
        self._pool, self._idle, self._held, self._unneeded = pool, [], 0, 0

    def _part_with(self, connection: Pooled) -> None:
        """Hand the connection back to the pool, which mends or replaces it where needed."""
        # Not the database's pool: that is gone first when it closes, and then waits for its connections.
        if self._pool is not None:
            task = asyncio.get_running_loop().create_task(self._return(self._pool, connection))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _return(self, pool: Pool, connection: Pooled) -> None:
        # What is wrong with a broken connection was told to whoever used it.
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await pool.release(connection)
        if pool is self._pool:
            self._held -= 1
            self._call_next()
