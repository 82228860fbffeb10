"""How many transactions of several statements there are at once, when code of addons runs within them.

Such code may need a transaction of its own while the one around it waits for it. Were both to come out of the same
slots, a few at the same time could hold all and wait for each other. So each depth has slots of its own, each slot has
a connection that nobody else takes, and the deepest waits for nobody: whoever holds one gets on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg

from metacore.db.database import MOST_DEEPER, Database
from metacore.dynamic.fair_slots import FairSlots
from metacore.errors import Refused, TooManyRequests, Unavailable

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

DEEPEST: Final = 2 + MOST_DEEPER
"""Transactions within each other, the first included."""


class Slot:
    """One transaction that is held open, `depth` 1 being one that is in no other."""

    def __init__(self, db: Database, depth: int) -> None:
        self._db = db
        self.depth = depth
        self._open = True
        # What runs within one transaction takes turns, so that it has the one connection that is kept for it.
        self.turn = asyncio.Lock()

    @property
    def pool(self) -> Pool:
        return self._db.postgres if self.depth == 1 else self._db.inner_postgres

    def surrounds(self, db: Database) -> bool:
        """Whether it is still open, on this database: what runs on in the background inherits it, too."""
        return self._open and self._db is db

    @contextmanager
    def around_what_runs(self) -> Iterator[None]:
        before = _innermost.get()
        _innermost.set(self)
        try:
            yield
        finally:
            self._open = False
            _innermost.set(before)


_innermost: ContextVar[Slot | None] = ContextVar("metacore_transaction", default=None)
"""Also there in what the sandbox asks the loop for: its bridge carries the context of who began the call."""


class OpenTransactions:
    """Of one database: as many first transactions as it gives connections to, one less for a single owner where there
    are several, half of them for a single tenant; as many within these, one within each; and one for each depth below.
    """

    def __init__(self, most: int, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._first = FairSlots(most, max(1, most - 1), wait_seconds=wait_seconds, what="changes", code="database_busy")
        self._of_a_tenant = (most + 1) // 2
        self._within = [asyncio.Semaphore(most), *(asyncio.Semaphore(1) for _ in range(MOST_DEEPER))]

    @asynccontextmanager
    async def slot(self, db: Database, owner: str, tenant: uuid.UUID | None = None) -> AsyncIterator[Slot]:
        """Hold one, within the transaction that this code runs in if there is one.

        Raises:
            Unavailable: none was free in time.
            Refused: within too many others.
        """
        around = _innermost.get()
        async with AsyncExitStack() as held:
            try:
                if around is None or not around.surrounds(db):
                    first = self._first
                    own = first.of(owner) if tenant is None else first.of((owner, tenant), each=self._of_a_tenant)
                    await held.enter_async_context(own)
                    slot = Slot(db, 1)
                else:
                    slot = Slot(db, around.depth + 1)
                    if slot.depth > DEEPEST:
                        raise Refused(f"more than {DEEPEST} transactions within each other", code="too_deep")
                    async with asyncio.timeout(self._wait_seconds):
                        await held.enter_async_context(around.turn)
                        await held.enter_async_context(self._within[slot.depth - 2])
            except (TimeoutError, TooManyRequests):
                raise Unavailable("too many changes are under way; try again", code="database_busy") from None
            yield slot


_known: WeakKeyDictionary[Database, OpenTransactions] = WeakKeyDictionary()


def transactions_of(db: Database, wait_seconds: float) -> OpenTransactions:
    """Those of a database: one set, however many services work on it. `wait_seconds` counts the first time."""
    known = _known.get(db)
    if known is None:
        known = _known[db] = OpenTransactions(db.transactions, wait_seconds)
    return known
