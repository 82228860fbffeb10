"""Which namespaces may target which organizations: an administrator's rules, never an Addon's."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from metacore_operator.settings import EVERY, Tenancy
from metacore_operator.steps.state import (
    InstalledAddon,
    Kernel,
    OpenHandler,
    Pulse,
    State,
    StoredBundle,
    Tenant,
    Violations,
)


class TenantsOf(State):
    """The state as Addons of one namespace may see it: organizations that they may not target do not exist for them."""

    def __init__(self, state: State, namespace: str, rules: Sequence[Tenancy]) -> None:
        self._state = state
        self._allowed = {
            organization
            for rule in rules
            if any(fnmatchcase(namespace, pattern) for pattern in rule.namespaces)
            for organization in rule.organizations
        }

    async def tenants(self) -> Sequence[Tenant]:
        if not self._allowed:
            return ()
        found = await self._state.tenants()
        if EVERY in self._allowed:
            return found
        return [tenant for tenant in found if tenant.name in self._allowed or str(tenant.id) in self._allowed]

    async def kernels(self) -> Sequence[Kernel]:
        return await self._state.kernels()

    async def installed(self, key: str) -> InstalledAddon | None:
        return await self._state.installed(key)

    async def installed_keys(self) -> Sequence[str]:
        return await self._state.installed_keys()

    async def bundle(self, digest: str) -> StoredBundle | None:
        return await self._state.bundle(digest)

    async def violations(self, key: str) -> Violations:
        return await self._state.violations(key)

    async def open_handlers(self, key: str) -> Sequence[OpenHandler]:
        return await self._state.open_handlers(key)

    async def pulse(self) -> Pulse:
        return await self._state.pulse()
