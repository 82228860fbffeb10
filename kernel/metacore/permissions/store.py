"""Where grants come from: what the check needs, what administration needs, and a store in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol, runtime_checkable

from metacore.errors import Conflict
from metacore.permissions.capabilities import parse_capability

Changed = Callable[[uuid.UUID | None], None]
"""Told the organization whose grants changed."""


class PermissionStore(Protocol):
    """All that a check needs. A host with its own source of grants implements this."""

    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Collection[str]:
        """The capabilities of the role and of the user, in one answer."""
        ...


@runtime_checkable
class WritablePermissionStore(PermissionStore, Protocol):
    """A store that can be administered. Granting twice and revoking what is not there do nothing and answer False.

    The writing methods raise InvalidInput for a malformed capability. After each change the callbacks of `on_change`
    are called with the organization.
    """

    async def grant_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool: ...

    async def revoke_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool: ...

    async def grant_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool: ...

    async def revoke_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool: ...

    async def role_grants(self, organization_id: uuid.UUID) -> Mapping[str, frozenset[str]]:
        """Capabilities by role, of every role that has any."""
        ...

    async def user_grants(self, organization_id: uuid.UUID, user_id: uuid.UUID) -> frozenset[str]:
        """What the user was granted beside the role."""
        ...

    def on_change(self, callback: Changed) -> None: ...


class MemoryPermissionStore:
    """Grants of this process. `role_grants` hold in every organization and cannot be revoked in one."""

    def __init__(self, role_grants: Mapping[str, Iterable[str]] | None = None) -> None:
        self._everywhere = {
            role: frozenset(parse_capability(capability) for capability in capabilities)
            for role, capabilities in (role_grants or {}).items()
        }
        self._roles: dict[tuple[uuid.UUID, str], set[str]] = {}
        self._users: dict[tuple[uuid.UUID, uuid.UUID], set[str]] = {}
        self._changed: list[Changed] = []

    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Collection[str]:
        return frozenset().union(
            self._everywhere.get(role, ()),
            self._roles.get((organization_id, role), ()),
            self._users.get((organization_id, user_id), ()),
        )

    async def grant_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool:
        name = parse_capability(capability)
        if name in self._everywhere.get(role, ()):
            return False
        return self._add(self._roles.setdefault((organization_id, role), set()), name, organization_id)

    async def revoke_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool:
        name = parse_capability(capability)
        if name in self._everywhere.get(role, ()):
            raise Conflict(f"{name!r} is granted to {role!r} in every organization by the host", code="host_grant")
        return self._remove(self._roles.get((organization_id, role)), name, organization_id)

    async def grant_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool:
        held = self._users.setdefault((organization_id, user_id), set())
        return self._add(held, parse_capability(capability), organization_id)

    async def revoke_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool:
        held = self._users.get((organization_id, user_id))
        return self._remove(held, parse_capability(capability), organization_id)

    async def role_grants(self, organization_id: uuid.UUID) -> Mapping[str, frozenset[str]]:
        roles = {*self._everywhere, *(role for owner, role in self._roles if owner == organization_id)}
        merged = {
            role: self._everywhere.get(role, frozenset()) | self._roles.get((organization_id, role), set())
            for role in sorted(roles)
        }
        return {role: names for role, names in merged.items() if names}

    async def user_grants(self, organization_id: uuid.UUID, user_id: uuid.UUID) -> frozenset[str]:
        return frozenset(self._users.get((organization_id, user_id), ()))

    def on_change(self, callback: Changed) -> None:
        self._changed.append(callback)

    def _add(self, held: set[str], name: str, organization_id: uuid.UUID) -> bool:
        if name in held:
            return False
        held.add(name)
        self._tell(organization_id)
        return True

    def _remove(self, held: set[str] | None, name: str, organization_id: uuid.UUID) -> bool:
        if held is None or name not in held:
            return False
        held.remove(name)
        self._tell(organization_id)
        return True

    def _tell(self, organization_id: uuid.UUID) -> None:
        for callback in self._changed:
            callback(organization_id)
