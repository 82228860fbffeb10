"""`connector_get`: credentials of the addon's own connectors, in clear, for who was granted them."""

from __future__ import annotations

from typing import Any

from metacore.addons.guest_context import GuestCall
from metacore.capabilities.access import Access, CapabilityKind, Gate
from metacore.connectors.credentials import Credentials
from metacore.wasm.ports import HostError


class GuestConnectors:
    def __init__(self, credentials: Credentials, gate: Gate) -> None:
        self._credentials = credentials
        self._gate = gate

    async def connector_get(self, guest: GuestCall, key: str) -> dict[str, Any] | HostError:
        context = guest.context
        self._gate.require(
            Access(context.addon_key, CapabilityKind.CONNECTOR_READ, key, context.organization_id, context.caller)
        )
        return await self._credentials.opened(context.organization_id, context.addon_key, key)
