"""What has to be thrown away now and then, and only the owner may."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable

from metacore.auth.sessions import purge_sessions
from metacore.capabilities.writer import purge_violations
from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.installer.job_rows import purge_jobs
from metacore.installer.watching import Busy, unwatched
from metacore.logs import get_logger

log = get_logger(__name__)

DAY = 86_400.0


class Housekeeping:
    """Deletes what is over, at the start and then every `interval` seconds: ended login sessions with their refresh
    tokens, violations and failed jobs of more than a month ago, jobs that were done a week ago, and with an `installer`
    what killed rehearsals left. `busy` is entered while one of these goes on."""

    def __init__(
        self,
        owner: Database,
        installer: Installer | None = None,
        *,
        interval: float = DAY,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        busy: Busy = unwatched,
    ) -> None:
        self._owner = owner
        self._installer = installer
        self._interval = interval
        self._now = now
        self._busy = busy

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. A failure is told and tried again at the next turn."""
        while not stop.is_set():
            now = self._now()
            await self._purge("sessions", purge_sessions(self._owner, now=now))
            await self._purge("violations", purge_violations(self._owner, now=now))
            await self._purge("jobs", purge_jobs(self._owner, now=now))
            if self._installer is not None:
                await self._purge("rehearsals", self._installer.sweep())
            try:
                async with asyncio.timeout(self._interval):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _purge(self, what: str, purging: Awaitable[int]) -> None:
        try:
            with self._busy(f"purging {what}"):
                gone = await purging
        except Exception as error:
            log.warning("housekeeping.failed", what=what, error=type(error).__name__)
        else:
            if gone:
                log.info("housekeeping.purged", what=what, rows=gone)
