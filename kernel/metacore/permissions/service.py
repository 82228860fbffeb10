"""May this caller do that? Asked on every request, so the usual answer takes no I/O."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence

from metacore.db import channels
from metacore.db.listen import Listener
from metacore.errors import InvalidInput, PermissionDenied
from metacore.identity import Principal
from metacore.ids import parse_uuid
from metacore.orm.epochs import EpochWatch
from metacore.permissions.capabilities import EVERYTHING, Grants
from metacore.permissions.store import PermissionStore, WritablePermissionStore

MAX_USERS = 10_000
MAX_DECISIONS = 512
"""Answers kept per user. Model names come from URLs, so a caller could ask about any number of them."""


class _Held:
    """What one user was found to hold, with the answers given so far."""

    __slots__ = ("decisions", "grants", "organization_id", "role", "until")

    def __init__(self, organization_id: uuid.UUID, role: str, grants: Grants, until: float) -> None:
        self.organization_id = organization_id
        self.role = role
        self.grants = grants
        self.until = until
        self.decisions: dict[str, bool] = {}

    def allow(self, capability: str) -> bool:
        answer = self.decisions.get(capability)
        if answer is None:
            if len(self.decisions) >= MAX_DECISIONS:
                self.decisions.clear()
            answer = self.decisions[capability] = self.grants.allow(capability)
        return answer


class PermissionService:
    """Role grants plus user grants of `store`, cached per user for `ttl` seconds. Roles in `super_roles` hold `*`.

    A store that can be written tells of its changes; changes made in other processes arrive through `listener`, and
    what that missed through `refresh_epoch`.
    """

    def __init__(
        self,
        store: PermissionStore,
        super_roles: Sequence[str] = ("owner",),
        ttl: float = 300,
        *,
        listener: Listener | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.super_roles = frozenset(super_roles)
        self._ttl = ttl
        self._now = now
        self._held: dict[uuid.UUID, _Held] = {}
        self._generation = 0
        self._epoch = EpochWatch()
        self._listening = listener is not None
        if isinstance(store, WritablePermissionStore):
            store.on_change(self._changed)
        if listener is not None:
            listener.subscribe(channels.PERMISSIONS, self._heard)
            listener.on_reconnect(lambda: self.invalidate(None))

    def check_cached(self, principal: Principal, capability: str) -> bool | None:
        """The answer, when it is at hand; None when it has to be looked up with `check`."""
        if principal.role in self.super_roles:
            return True
        held = self._held.get(principal.user_id)
        if (
            held is None
            or held.role != principal.role
            or held.organization_id != principal.organization_id
            or self._now() >= held.until
        ):
            return None
        return held.allow(capability)

    async def check(self, principal: Principal, capability: str) -> bool:
        answer = self.check_cached(principal, capability)
        return answer if answer is not None else (await self._load(principal)).allow(capability)

    async def check_any(self, principal: Principal, capabilities: Iterable[str]) -> bool:
        for capability in capabilities:
            if await self.check(principal, capability):
                return True
        return False

    async def check_all(self, principal: Principal, capabilities: Iterable[str]) -> bool:
        for capability in capabilities:
            if not await self.check(principal, capability):
                return False
        return True

    async def require(self, principal: Principal, *capabilities: str, any_of: bool = False) -> None:
        """Let pass who holds all of `capabilities`, or with `any_of` one of them.

        Raises:
            PermissionDenied: names the first capability that is missing, or with `any_of` all of them.
        """
        if any_of:
            if not await self.check_any(principal, capabilities):
                raise missing(*capabilities)
            return
        for capability in capabilities:
            if not await self.check(principal, capability):
                raise missing(capability)

    async def grants_of(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Grants:
        """What such a user holds, read from the store now."""
        if role in self.super_roles:
            return Grants([EVERYTHING])
        return Grants(await self.store.grants(organization_id, user_id, role))

    async def held_by(self, principal: Principal) -> Grants:
        """What the caller holds; cached like the checks."""
        if principal.role in self.super_roles:
            return Grants([EVERYTHING])
        held = self._held.get(principal.user_id)
        if self.check_cached(principal, EVERYTHING) is None or held is None:
            held = await self._load(principal)
        return held.grants

    def invalidate(self, organization_id: uuid.UUID | None) -> None:
        """Forget what users of this organization hold, or with None everybody."""
        self._generation += 1
        if organization_id is None:
            self._held.clear()
            return
        for user_id in [key for key, held in self._held.items() if held.organization_id == organization_id]:
            del self._held[user_id]

    def refresh_epoch(self, value: int) -> None:
        """Compare the counter `permissions` of `metacore_epochs`, read by the heartbeat, with what was heard."""
        if self._epoch.missed(value):
            self.invalidate(None)

    async def _load(self, principal: Principal) -> _Held:
        generation = self._generation
        names = await self.store.grants(principal.organization_id, principal.user_id, principal.role)
        held = _Held(principal.organization_id, principal.role, Grants(names), self._now() + self._ttl)
        # A change that came while the store was asked makes the answer good for this caller only.
        if generation == self._generation:
            self._held.pop(principal.user_id, None)
            self._held[principal.user_id] = held
            if len(self._held) > MAX_USERS:
                del self._held[next(iter(self._held))]
        return held

    def _changed(self, organization_id: uuid.UUID | None) -> None:
        if not self._listening:
            self._epoch.notified()
        self.invalidate(organization_id)

    def _heard(self, payload: str) -> None:
        self._epoch.notified()
        try:
            organization_id = parse_uuid(payload) if payload else None
        except InvalidInput:
            organization_id = None
        self.invalidate(organization_id)


def missing(*capabilities: str) -> PermissionDenied:
    names = " or ".join(f'"{capability}"' for capability in capabilities)
    return PermissionDenied(f"permission denied: missing capability {names}")
