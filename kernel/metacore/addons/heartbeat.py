"""The pulse of one kernel process: it says what it serves, and learns what it missed.

Every interval it writes one row (pod, mode, build, revision, addons with their errors), compares the registry's
revision and reads the epochs of caches. A process that could not write for ten seconds is not live any more and leaves
readiness.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.addons.loader import Loader
from metacore.addons.stored import REGISTRY_ROW
from metacore.db.database import Database
from metacore.logs import get_logger
from metacore.metrics import Metrics
from metacore.orm.tables import Epoch, Registry
from metacore.orm.tables import Heartbeat as HeartbeatRow
from metacore.version import __version__

log = get_logger(__name__)

LIVE_SECONDS = 10.0
"""How long after its last heartbeat a kernel counts as live, in time of the database (architecture 5)."""
FORGOTTEN_AFTER = datetime.timedelta(hours=1)
WRITE_SECONDS = 5.0

EpochsRead = Callable[[Mapping[str, int]], None]


class Heartbeat:
    """Beats every `interval` seconds between `start` and `stop`. `pod` '' means host name and process id."""

    def __init__(
        self,
        database: Database,
        loader: Loader,
        *,
        mode: str = "shadow",
        interval: float = 2.0,
        pod: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        self.pod = pod or f"{socket.gethostname()}-{os.getpid()}"
        self.mode = mode
        """What the next row tells; whoever follows the mode sets it."""
        self._database = database
        self._loader = loader
        self._interval = interval
        self._metrics = metrics
        self._callbacks: list[EpochsRead] = []
        self._before: list[Callable[[], Awaitable[None]]] = []
        self._written_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether a heartbeat was written within the last ten seconds."""
        return time.monotonic() - self._written_at < LIVE_SECONDS

    def on_epochs(self, callback: EpochsRead) -> None:
        """Call `callback` with the counters of `metacore_epochs`, by name, at every heartbeat."""
        self._callbacks.append(callback)

    def before(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await `callback` before every row, so that it can still change what the row tells."""
        self._before.append(callback)

    async def start(self) -> None:
        await self._try_to_beat()
        self._task = asyncio.create_task(self._run(), name="metacore-heartbeat")

    async def stop(self) -> None:
        """Stop, and take the row away, so that nobody waits for this process."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(WRITE_SECONDS), self._database.transaction(None) as connection:
                await connection.execute(delete(HeartbeatRow).where(HeartbeatRow.pod == self.pod))
        except Exception:
            log.warning("heartbeat.farewell_failed", pod=self.pod)

    async def beat(self) -> None:
        """Write the row, then act on what was read in the same transaction."""
        async with asyncio.timeout(WRITE_SECONDS), self._database.transaction(None) as connection:
            await self._write(connection)
            revision = (
                await connection.execute(select(Registry.revision).where(Registry.id == REGISTRY_ROW))
            ).scalar_one()
            epochs = {row.name: row.value for row in await connection.execute(select(Epoch.name, Epoch.value))}
        self._written_at = time.monotonic()
        for callback in self._callbacks:
            callback(epochs)
        self._loader.seen(int(revision))

    async def told(self) -> None:
        """Write the row now, because what this process serves has changed: the reconciler waits for it."""
        await self._try_to_beat()

    async def _run(self) -> None:
        while True:
            # A little unevenness keeps many processes from writing at the same instant.
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - no secret.
            await self._try_to_beat()

    async def _try_to_beat(self) -> None:
        try:
            for callback in self._before:
                await callback()
            await self.beat()
        except Exception as error:
            log.warning("heartbeat.failed", pod=self.pod, error=f"{type(error).__name__}: {error}")
        if self._metrics is not None:
            self._metrics.heartbeat_healthy.set(self.healthy)

    async def _write(self, connection: AsyncConnection) -> None:
        row = {
            "pod": self.pod,
            "mode": self.mode,
            "build": __version__,
            "revision": self._loader.revision,
            "addons": self._loader.status(),
        }
        on_postgres = connection.dialect.name == "postgresql"
        now = func.clock_timestamp() if on_postgres else func.current_timestamp()
        insert = (postgresql.insert if on_postgres else sqlite.insert)(HeartbeatRow)
        changed = {name: value for name, value in row.items() if name != "pod"} | {"seen_at": now}
        await connection.execute(
            insert.values(**row, seen_at=now).on_conflict_do_update(index_elements=["pod"], set_=changed)
        )
        if on_postgres:
            await connection.execute(FORGET, {"after": FORGOTTEN_AFTER})
        else:
            horizon = datetime.datetime.now(datetime.UTC) - FORGOTTEN_AFTER
            await connection.execute(delete(HeartbeatRow).where(HeartbeatRow.seen_at < horizon))


FORGET = text("DELETE FROM metacore_heartbeats WHERE seen_at < clock_timestamp() - CAST(:after AS interval)")
