"""From committed rows to the bus: one process numbers new events, every process publishes them in that order.

On PostgreSQL the numbering process is the leader. It learns of new events from its own commits (`wake`), from an empty
NOTIFY of another process, and at the latest from its poll; after each batch it sends one NOTIFY with the highest
position. Every process, the leader too, reads on from its own position, so each event reaches each bus once and in
order. On SQLite one process does all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from metacore import logs
from metacore.db import channels, locks
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.events.bus import Bus, BusEvent
from metacore.events.leadership import LOST, Leadership
from metacore.events.log import EventReader, PostgresReader, SqliteLog
from metacore.metrics import Metrics

log = logs.get_logger("metacore.relay")

NUMBER_AND_NOTIFY: Final = """
SELECT count(*) AS numbered, pg_notify($2, max(position)::text) FROM metacore_number_events($1) HAVING count(*) > 0
"""
ASK_LEADER: Final = "SELECT pg_notify($1, '')"
"""An empty payload is for the leader; a position is for those who read on."""

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0


class Relay:
    """`batch` bounds the events of one statement, `poll_seconds` what a lost notification costs, `pause_seconds` how
    often a busy process numbers or notifies: within it, many commits become one statement."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        listener: Listener | None = None,
        *,
        metrics: Metrics | None = None,
        batch: int = 500,
        poll_seconds: float = 1.0,
        pause_seconds: float = 0.02,
    ) -> None:
        self._bus = bus
        self._metrics = metrics
        self._batch = batch
        self._poll_seconds = poll_seconds
        self._pause_seconds = pause_seconds
        self._committed = asyncio.Event()
        self._numbered = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._leadership: Leadership | None = None
        self._reader: EventReader
        if db.dialect == "postgresql":
            self._reader = PostgresReader(db)
            self._leadership = Leadership(db.direct_url, locks.RELAY, on_lost=self._committed.set)
            self._number: Callable[[bool], Awaitable[None]] = self._number_as_leader
        else:
            self._reader = self._sqlite = SqliteLog(db)
            self._number = self._number_alone
        if listener is not None:
            listener.subscribe(channels.EVENTS, self._notified)
            listener.on_reconnect(self._numbered.set)
        self.position = 0
        """The last position that this process published, or where it started."""

    @property
    def leading(self) -> bool:
        """Whether this process numbers events."""
        return self._leadership is None or self._leadership.leading

    async def start(self) -> None:
        """Publish what is numbered from now on.

        Raises:
            asyncpg.PostgresError, OSError: the database cannot be asked where its log stands.
        """
        if self._tasks:
            return
        self.position = await self._reader.last_position()
        self._committed.set()
        self._tasks = [
            asyncio.create_task(self._repeat(self._committed, self._number), name="relay-number"),
            asyncio.create_task(self._repeat(self._numbered, self._publish), name="relay-publish"),
        ]

    async def stop(self) -> None:
        """Stop, and let another process lead. What is not published yet does not reach this process any more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._leadership is not None:
            await self._leadership.close()
        if self._metrics is not None:
            self._metrics.relay_leader.set(0)

    def wake(self) -> None:
        """This process committed an event. Costs nothing and may be called for each."""
        self._committed.set()

    def _notified(self, payload: str) -> None:
        if payload:
            self._numbered.set()
        elif self.leading:
            self._committed.set()

    async def _repeat(self, signal: asyncio.Event, step: Callable[[bool], Awaitable[None]]) -> None:
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await signal.wait()
            signaled = signal.is_set()
            signal.clear()
            try:
                await step(signaled)
            except (*LOST, SQLAlchemyError) as error:
                failures += 1
                log.warning("relay.database_lost", step=step.__name__, failures=failures, error=str(error))
            except Exception:
                failures += 1
                log.exception("relay.failed", step=step.__name__)
            else:
                failures = 0
                await asyncio.sleep(self._pause_seconds)
                continue
            if signaled:
                signal.set()
            if self._leadership is not None and signal is self._committed:
                await self._leadership.close()
            longest = min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads processes, no secret.

    async def _number_as_leader(self, committed_here: bool) -> None:
        assert self._leadership is not None
        leading = await self._leadership.try_lead()
        if self._metrics is not None:
            self._metrics.relay_leader.set(int(leading))
        if not leading:
            if committed_here:
                await self._leadership.fetchrow(ASK_LEADER, channels.EVENTS)
            return
        while row := await self._leadership.fetchrow(NUMBER_AND_NOTIFY, self._batch, channels.EVENTS):
            # The own NOTIFY comes back only through the listener's connection; the news is here already.
            self._numbered.set()
            if row["numbered"] < self._batch:
                return

    async def _number_alone(self, _committed_here: bool) -> None:
        while numbered := await self._sqlite.number(self._batch):
            self._numbered.set()
            if numbered < self._batch:
                return

    async def _publish(self, _notified: bool) -> None:
        while events := await self._reader.after(self.position, self._batch):
            for event in events:
                await self._deliver(event)
                assert event.position is not None
                self.position = event.position
            if len(events) < self._batch:
                return

    async def _deliver(self, event: BusEvent) -> None:
        try:
            await self._bus.deliver(event)
        except Exception:
            # Publishing it again would reach some subscribers twice; it stays in the log.
            log.exception("relay.not_delivered", event_name=event.name, position=event.position)
        if self._metrics is not None:
            self._metrics.relay_events.inc()
            if event.created_at is not None:
                self._metrics.observe_lag(event.created_at)
