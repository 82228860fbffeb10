"""The hub of one process: who is connected, and sending to them without ever waiting for one.

All methods belong to the event loop's thread. A message is encoded once; a client that does not keep up is closed with
1013, one whose token ended with 4401.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, Protocol

from metacore import logs
from metacore.db.faults import fault_of
from metacore.errors import Unauthenticated
from metacore.identity import Principal
from metacore.ids import OrganizationId, SessionId, UserId
from metacore.metrics import Metrics
from metacore.ws.connection import CloseCode, Connection, Sink, Verify
from metacore.ws.messages import Message, MessageType

log = logs.get_logger("metacore.ws")

RECHECKS_AT_ONCE: Final = 16

NotificationHook = Callable[[frozenset[UserId], Message], Awaitable[None] | None]
"""Gets every NOTIFICATION and the users it is for, connected or not."""

MessageHook = Callable[[Connection, str], Awaitable[None] | None]
"""Gets what clients send. The next message of that client is read when it returns."""


class Elsewhere(Protocol):
    """The other kernels; `ws.fanout` has the real one."""

    def send(self, users: frozenset[UserId], message: Message) -> None:
        """Send to the users' connections there. Does not wait."""
        ...

    async def stop(self) -> None: ...


class Hub:
    """Connections by user. `now` gives Unix seconds."""

    def __init__(self, metrics: Metrics | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._now = now
        self._by_user: dict[UserId, set[Connection]] = {}
        self._all: set[Connection] = set()
        self._notification_hooks: list[NotificationHook] = []
        self._message_hook: MessageHook | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.elsewhere: Elsewhere | None = None
        self.changes = 0
        """Rises whenever rights may have changed."""
        self._to_recheck: set[UserId | None] = set()
        self._rechecking: asyncio.Task[None] | None = None

    # --- connections

    def connect(
        self, principal: Principal, sink: Sink, *, channel: str = "", verify: Verify | None = None
    ) -> Connection:
        """Take a client in whose token was checked. It is closed when the token expires."""
        connection = Connection(principal, sink, channel=channel, verify=verify)
        self._all.add(connection)
        self._by_user.setdefault(principal.user_id, set()).add(connection)
        delay = max(0.0, principal.expires_at - self._now())
        connection.expiry = asyncio.get_running_loop().call_later(
            delay, self._end, connection, CloseCode.UNAUTHENTICATED, "token expired"
        )
        self._count()
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a client that went away. Doing so twice does nothing."""
        if connection not in self._all:
            return
        self._all.discard(connection)
        if connection.expiry is not None:
            connection.expiry.cancel()
            connection.expiry = None
        own = self._by_user[connection.principal.user_id]
        own.discard(connection)
        if not own:
            del self._by_user[connection.principal.user_id]
        self._count()

    def connected_users(self, organization_id: OrganizationId | None = None) -> frozenset[UserId]:
        """Users with at least one connection to this process, of one organization or of all."""
        if organization_id is None:
            return frozenset(self._by_user)
        return frozenset(
            connection.principal.user_id
            for connection in self._all
            if connection.principal.organization_id == organization_id
        )

    def __len__(self) -> int:
        return len(self._all)

    # --- sending

    def send_to_user(self, user_id: UserId, message: Message) -> int:
        """Send to every connection of one user, in whichever kernel. Returns how many of this process took it."""
        return self.send_to_users((user_id,), message)

    def send_to_users(self, user_ids: Iterable[UserId], message: Message) -> int:
        """Send to every connection of these users, in whichever kernel. Returns how many of this process took it."""
        users = frozenset(user_ids)
        taken = self.deliver(users, message)
        if self.elsewhere is not None and users:
            self.elsewhere.send(users, message)
        self._notified(users, message)
        return taken

    def deliver(self, user_ids: Iterable[UserId], message: Message) -> int:
        """Send to the connections of this process alone, without hooks: another kernel took care of the rest."""
        return self._send([each for user_id in user_ids for each in self._by_user.get(user_id, ())], message)

    def send_conditional(self, predicate: Callable[[Connection], bool], message: Message) -> int:
        """Send to every connection that `predicate` picks, by its `principal` and `channel`. Returns how many took it.

        The hub spans all organizations: a predicate that does not look at one sends to all of them. A predicate is code
        and cannot travel, so this asks about the connections of this process.
        """
        targets = [connection for connection in self._all if predicate(connection)]
        taken = self._send(targets, message)
        self._notified(frozenset(connection.principal.user_id for connection in targets), message)
        return taken

    def on_notification(self, hook: NotificationHook) -> None:
        """Let `hook` see every message of type NOTIFICATION."""
        self._notification_hooks.append(hook)

    def on_message(self, hook: MessageHook) -> None:
        """Let `hook` have the text messages that clients send; without one they are ignored."""
        self._message_hook = hook

    async def received(self, connection: Connection, text: str) -> None:
        """A client said something."""
        if self._message_hook is None:
            return
        try:
            result = self._message_hook(connection, text)
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("ws.message_hook_failed")

    # --- ending

    def revoke(self, *, user_id: UserId | None = None, session_id: SessionId | None = None) -> int:
        """Close the connections of a user, of a session, or of a user's one session, with 4401. Returns how many."""
        if user_id is None and session_id is None:
            return 0
        self.changes += 1
        ended = [
            connection
            for connection in (self._all if user_id is None else self._by_user.get(user_id, ()))
            if session_id is None or connection.principal.session_id == session_id
        ]
        for connection in ended:
            self._end(connection, CloseCode.UNAUTHENTICATED, "token revoked")
        return len(ended)

    def invalidate(self, user_id: UserId | None) -> None:
        """Rights of a user (None: of anybody) may have changed: check those tokens again soon. Does not wait."""
        self.changes += 1
        self._to_recheck.add(user_id)
        if self._rechecking is None:
            self._rechecking = asyncio.get_running_loop().create_task(self._recheck_all(), name="ws-recheck")

    async def recheck(self, user_id: UserId | None) -> None:
        """Check the tokens of a user's connections (None: of all) again; close those that do not hold with 4401."""
        targets = tuple(self._all if user_id is None else self._by_user.get(user_id, ()))
        for start in range(0, len(targets), RECHECKS_AT_ONCE):
            await asyncio.gather(*(self._recheck(each) for each in targets[start : start + RECHECKS_AT_ONCE]))

    async def stop(self) -> None:
        """Close every connection with 1001 and stop what runs in the background."""
        if self.elsewhere is not None:
            await self.elsewhere.stop()
        for connection in tuple(self._all):
            self._end(connection, CloseCode.GOING_AWAY, "server stops")
        tasks = [*self._tasks, *([self._rechecking] if self._rechecking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _send(self, targets: Collection[Connection], message: Message) -> int:
        if not targets:
            return 0
        # Encoding may fail; then it fails before the first client got anything.
        _ = message.text
        slow = [connection for connection in targets if not connection.sink.push(message)]
        for connection in slow:
            self._end(connection, CloseCode.TRY_AGAIN_LATER, "too slow")
        if self._metrics is not None:
            self._metrics.ws_messages.inc(len(targets) - len(slow))
            if slow:
                self._metrics.ws_slow_clients.inc(len(slow))
        return len(targets) - len(slow)

    def _end(self, connection: Connection, code: int, reason: str) -> None:
        self.disconnect(connection)
        connection.sink.end(code, reason)

    def _notified(self, users: frozenset[UserId], message: Message) -> None:
        if message.type != MessageType.NOTIFICATION:
            return
        for hook in self._notification_hooks:
            try:
                result = hook(users, message)
                if inspect.isawaitable(result):
                    task = asyncio.ensure_future(self._awaited(result))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            except Exception:
                log.exception("ws.notification_hook_failed")

    @staticmethod
    async def _awaited(result: Awaitable[None]) -> None:
        try:
            await result
        except Exception:
            log.exception("ws.notification_hook_failed")

    async def _recheck_all(self) -> None:
        try:
            while self._to_recheck:
                users, self._to_recheck = self._to_recheck, set()
                for user_id in (None,) if None in users else users:
                    await self.recheck(user_id)
        finally:
            self._rechecking = None

    async def _recheck(self, connection: Connection) -> None:
        if connection.verify is None:
            return
        try:
            principal = await connection.verify()
        except Unauthenticated:
            if connection in self._all:
                self._end(connection, CloseCode.UNAUTHENTICATED, "token revoked")
        except Exception as error:
            # Not knowing is no reason to throw everybody out: the token still expires.
            fault = fault_of(error)
            log.warning("ws.recheck_failed", error=fault.code if fault else "", exc_info=None if fault else error)
        else:
            connection.principal = principal

    def _count(self) -> None:
        if self._metrics is not None:
            self._metrics.ws_connections.set(len(self._all))
