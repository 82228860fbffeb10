"""Tokens that were verified, and what is known about their users and sessions: the way of a request without I/O.

Two things are kept apart. That a token's signature holds never changes, so it is remembered until the token expires.
The state of its user and session does change: it is believed for a short while, dropped when anybody says that it
changed, and read again with one query.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from metacore.auth.rules import ACTIVE
from metacore.auth.tokens import AccessClaims, expired
from metacore.errors import Unauthenticated
from metacore.identity import Principal
from metacore.ids import OrganizationId, SessionId, UserId


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """One session and its user as the database has them now."""

    user_id: UserId
    organization_id: OrganizationId
    email: str
    role: str
    status: str
    epoch: int
    session_expires_at: datetime.datetime
    session_revoked: bool


class _State:
    """Facts (None: no such session), believed until `fresh_until`; an invalidation sets that to 0."""

    __slots__ = ("facts", "fresh_until", "user_id")

    def __init__(self, user_id: UserId, facts: SessionFacts | None, fresh_until: float) -> None:
        self.user_id = user_id
        self.facts = facts
        self.fresh_until = fresh_until


class _Entry:
    """A verified token. `principal` is what it means under `state`, None when that refuses it."""

    __slots__ = ("claims", "digest", "expires_at", "principal", "state")

    def __init__(self, digest: bytes, claims: AccessClaims, state: _State) -> None:
        self.digest = digest
        self.claims = claims
        self.expires_at = claims.expires_at
        self.state = state
        self.principal: Principal | None = None


class TokenCache:
    """`verify` reads a token, `load` reads the facts behind its claims; both may raise.

    At most `size` tokens and as many sessions are kept, the least recently used ones go first. `ttl` is how long facts
    are believed. `now` gives Unix seconds.
    """

    def __init__(
        self,
        verify: Callable[[str], AccessClaims],
        load: Callable[[AccessClaims], Awaitable[SessionFacts | None]],
        *,
        ttl: float,
        size: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._verify = verify
        self._load = load
        self._ttl = ttl
        self._size = size
        self._now = now
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._states: OrderedDict[SessionId, _State] = OrderedDict()
        self._sessions: dict[UserId, set[SessionId]] = {}
        self._loading: dict[SessionId, asyncio.Task[_State]] = {}
        self._generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, token: str) -> Principal | None:
        """The caller, when everything needed to know that is at hand. None decides nothing: ask `resolve`."""
        try:
            digest = hashlib.sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            return None
        entry = self._entries.get(digest)
        if entry is None:
            return None
        now = self._now()
        if now >= entry.expires_at or now >= entry.state.fresh_until:
            return None
        self._entries.move_to_end(digest)
        return entry.principal

    async def resolve(self, token: str) -> Principal:
        """The caller that `token` stands for.

        Raises:
            Unauthenticated: `invalid_token`, `token_expired`, `token_revoked` or `user_disabled`.
        """
        entry = self._entry(token)
        if self._now() >= entry.expires_at:
            raise expired()
        if self._now() >= entry.state.fresh_until:
            self._bind(entry, await self._current(entry.claims))
        if entry.principal is None:
            raise _refusal(entry.state.facts)
        return entry.principal

    def invalidate(self, user_id: UserId | None) -> None:
        """Believe nothing any more about this user, or with None about anybody."""
        self._generation += 1
        # Who comes from now on must not join a query that was sent before the change.
        self._loading.clear()
        if user_id is None:
            for state in self._states.values():
                state.fresh_until = 0
            self._states.clear()
            self._sessions.clear()
            return
        for session_id in self._sessions.pop(user_id, ()):
            state_of_session = self._states.pop(session_id, None)
            if state_of_session is not None:
                state_of_session.fresh_until = 0

    def _entry(self, token: str) -> _Entry:
        try:
            digest = hashlib.sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError as error:
            raise Unauthenticated("invalid token", code="invalid_token") from error
        entry = self._entries.get(digest)
        if entry is None:
            claims = self._verify(token)
            entry = self._entries[digest] = _Entry(digest, claims, _State(claims.user_id, None, 0))
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(digest)
        return entry

    async def _current(self, claims: AccessClaims) -> _State:
        state = self._states.get(claims.session_id)
        if state is not None and self._now() < state.fresh_until:
            return state
        task = self._loading.get(claims.session_id)
        if task is None:
            task = asyncio.create_task(self._read(claims))
            self._loading[claims.session_id] = task
            task.add_done_callback(lambda done: self._loaded(claims.session_id, done))
        # Shielded: one caller that goes away must not cancel the query for the others.
        return await asyncio.shield(task)

    async def _read(self, claims: AccessClaims) -> _State:
        generation = self._generation
        facts = await self._load(claims)
        now = self._now()
        fresh_until = now + self._ttl
        if facts is not None:
            fresh_until = min(fresh_until, facts.session_expires_at.timestamp())
        state = _State(claims.user_id, facts, fresh_until)
        if generation != self._generation:
            # Something changed while the query ran. The answer serves those who asked before that, nobody after.
            state.fresh_until = 0
            return state
        self._remember(claims.session_id, state)
        return state

    def _loaded(self, session_id: SessionId, task: asyncio.Task[_State]) -> None:
        if self._loading.get(session_id) is task:
            del self._loading[session_id]
        if not task.cancelled():
            task.exception()  # Marked as seen: when every caller went away, nobody else asks.

    def _remember(self, session_id: SessionId, state: _State) -> None:
        previous = self._states.pop(session_id, None)
        if previous is not None:
            self._drop(session_id, previous)
        self._states[session_id] = state
        self._sessions.setdefault(state.user_id, set()).add(session_id)
        if len(self._states) > self._size:
            self._drop(*self._states.popitem(last=False))

    def _drop(self, session_id: SessionId, state: _State) -> None:
        """Tokens may still point at `state`; nothing would reach it with an invalidation any more, so it ends here."""
        state.fresh_until = 0
        sessions = self._sessions.get(state.user_id)
        if sessions is not None:
            sessions.discard(session_id)
            if not sessions:
                del self._sessions[state.user_id]

    def _bind(self, entry: _Entry, state: _State) -> None:
        claims, facts = entry.claims, state.facts
        entry.state = state
        entry.principal = None
        if (
            facts is not None
            and not facts.session_revoked
            and facts.status == ACTIVE
            and facts.epoch == claims.epoch
            and facts.user_id == claims.user_id
            and facts.organization_id == claims.organization_id
            and facts.session_expires_at.timestamp() > self._now()
        ):
            entry.principal = Principal(
                user_id=facts.user_id,
                organization_id=facts.organization_id,
                email=facts.email,
                role=facts.role,
                session_id=claims.session_id,
                expires_at=claims.expires_at,
                token_digest=entry.digest,
            )


def _refusal(facts: SessionFacts | None) -> Unauthenticated:
    if facts is not None and facts.status != ACTIVE:
        return Unauthenticated("this user is disabled", code="user_disabled")
    return Unauthenticated("the token was revoked: log in again", code="token_revoked")
