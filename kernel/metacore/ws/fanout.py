"""Messages to users whose connections are in other kernels: told by NOTIFY, taken in by their hubs.

A message is only told, never kept: who is not connected, and a kernel that has lost its database for a moment, miss
it, as a client does that is away. What is kept and counted is the log of events.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import uuid
from collections import OrderedDict
from typing import Any, Final

import asyncpg
import orjson

from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import Misconfigured
from metacore.ids import UserId
from metacore.logs import get_logger
from metacore.ws.hub import Hub
from metacore.ws.messages import Message

PART_BYTES: Final = 5_400
"""Of a message in one notification: in base64 7,200 characters, and PostgreSQL takes less than 8,000 in all."""
MAX_BYTES: Final = 1024 * 1024
"""Of a message with its users; a larger one reaches this kernel's clients only."""
MAX_WAITING: Final = 4_096
"""Notifications that wait for the database, about 30 MiB; what comes after is lost to other kernels."""
MAX_UNFINISHED: Final = 64
"""Messages of which parts are missing; the oldest is given up."""

SEND: Final = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
AT_ONCE: Final = 256
"""Notifications of one transaction."""
LOST: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Misconfigured)
"""The last one says that the database is closed, or not open yet."""

log = get_logger(__name__)


class Fanout:
    """What `hub` sends to users goes to the other kernels of this database, and theirs to the clients of `hub`."""

    def __init__(self, hub: Hub, database: Database, listener: Listener) -> None:
        self._hub = hub
        self._database = database
        self._own = secrets.token_hex(8)
        self._count = 0
        self._waiting: list[str] = []
        self._sending: asyncio.Task[None] | None = None
        self._unfinished: OrderedDict[tuple[str, int], dict[int, str]] = OrderedDict()
        listener.subscribe(channels.MESSAGES, self._received)

    def send(self, users: frozenset[UserId], message: Message) -> None:
        """Tell the other kernels. Never waits."""
        told = {"users": [str(user) for user in users], "message": orjson.Fragment(message.text)}
        content = orjson.dumps(told)
        parts = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
        if len(content) > MAX_BYTES or len(self._waiting) + len(parts) > MAX_WAITING:
            log.warning("ws.not_told", bytes=len(content), waiting=len(self._waiting))
            return
        # Equal notifications of one transaction are one to PostgreSQL, so each has a number.
        self._count += 1
        for number, part in enumerate(parts):
            place = f"{self._own} {self._count} {number} {len(parts)} "
            self._waiting.append(place + base64.b64encode(part).decode())
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all(), name="ws-fanout")

    async def stop(self) -> None:
        """Give up what was not told yet."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    await self._database.postgres.execute(SEND, channels.MESSAGES, some)
                except LOST as error:
                    log.warning("ws.not_told", notifications=len(some), error=str(error) or type(error).__name__)
        finally:
            self._sending = None

    def _received(self, payload: str) -> None:
        try:
            sender, count, number, parts, content = payload.split(" ", 4)
            if sender == self._own:
                return
            whole = self._whole((sender, int(count)), int(number), int(parts), content)
            if whole is not None:
                self._deliver(orjson.loads(whole))
        except (ValueError, KeyError, TypeError):
            log.warning("ws.unreadable", payload=payload[:64])

    def _whole(self, key: tuple[str, int], number: int, parts: int, content: str) -> bytes | None:
        found = self._unfinished.setdefault(key, {})
        found[number] = content
        if len(found) < parts:
            if len(self._unfinished) > MAX_UNFINISHED:
                self._unfinished.popitem(last=False)
            return None
        del self._unfinished[key]
        return b"".join(base64.b64decode(found[each]) for each in range(parts))

    def _deliver(self, told: dict[str, Any]) -> None:
        message = Message(told["message"]["type"], told["message"]["payload"])
        self._hub.deliver((UserId(uuid.UUID(user)) for user in told["users"]), message)


def reach_other_kernels(hub: Hub, database: Database, listener: Listener) -> None:
    """Let what `hub` sends to users reach those of every kernel on `database`, and take in what they send."""
    hub.elsewhere = Fanout(hub, database, listener)
