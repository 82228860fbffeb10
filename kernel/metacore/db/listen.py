"""NOTIFY received: one direct connection per process, kept alive, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import asyncpg

from metacore.db.sockets import Watched
from metacore.errors import Misconfigured
from metacore.logs import get_logger

CONNECT_SECONDS = 10.0
PING_SECONDS = 30.0
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

log = get_logger(__name__)


class Listener:
    """Calls subscribers for every NOTIFY on their channel, on the event loop; they must be quick.

    Notifications sent while there was no connection are lost. `on_reconnect` tells that this may have happened, so
    whoever caches by notifications drops what they have.
    """

    def __init__(self, direct_url: str, *, ping_seconds: float = PING_SECONDS) -> None:
        """`direct_url` must not lead through a pooler in transaction mode, which would drop the LISTEN."""
        self._url = direct_url
        self._ping_seconds = ping_seconds
        self._callbacks: dict[str, list[Callable[[str], None]]] = {}
        self._reconnect_callbacks: list[Callable[[], None]] = []
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._listening: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call `callback` with the payload of every notification on `channel`; also possible while running."""
        self._callbacks.setdefault(channel, []).append(callback)
        self._wake.set()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the connection was lost and every channel is listened to again."""
        self._reconnect_callbacks.append(callback)

    async def start(self) -> None:
        """Connect and listen; from then on a lost connection is made again by itself.

        Raises:
            Misconfigured: the database cannot be reached now.
        """
        if self._task is not None:
            return
        try:
            await self._connect()
        except LOST as error:
            await self._disconnect()
            raise Misconfigured(f"cannot listen to the database: {error or type(error).__name__}") from error
        self._task = asyncio.create_task(self._keep(), name="metacore-listen")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._disconnect()

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ping_seconds):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._check()
            except LOST as error:
                log.warning("listener.lost", error=str(error) or type(error).__name__)
                await self._reconnect()

    async def _check(self) -> None:
        """Raise when the connection is gone; a half-open one shows itself only by not answering."""
        if self._connection is None or self._connection.is_closed():
            raise ConnectionError("the server closed it")
        await self._listen(self._connection)
        await self._connection.execute("SELECT 1", timeout=CONNECT_SECONDS)

    async def _reconnect(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._disconnect()
            try:
                await self._connect()
                break
            except LOST:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many processes, no secret.
                pause = min(pause * 2, LONGEST_PAUSE)
        log.info("listener.reconnected")
        for callback in self._reconnect_callbacks:
            _call(callback)

    async def _connect(self) -> None:
        self._connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_SECONDS,
            server_settings={"application_name": "metacore-listen"},
            connection_class=Watched,
        )
        self._connection.add_termination_listener(lambda _connection: self._wake.set())
        await self._listen(self._connection)

    async def _listen(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        for channel in self._callbacks.keys() - self._listening:
            await connection.add_listener(channel, self._received)
            self._listening.add(channel)

    def _received(self, _connection: object, _process_id: int, channel: str, payload: object) -> None:
        for callback in self._callbacks.get(channel, ()):
            _call(callback, str(payload))

    async def _disconnect(self) -> None:
        self._listening.clear()
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        if not connection.is_closed():
            try:
                await connection.close(timeout=1.0)
            except LOST:
                connection.terminate()


def _call(callback: Callable[..., None], *arguments: str) -> None:
    """A subscriber that fails must not keep the others from hearing."""
    try:
        callback(*arguments)
    except Exception:
        log.exception("listener.subscriber_failed")
