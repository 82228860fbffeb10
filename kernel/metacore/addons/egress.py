"""Requests that an addon makes or causes: its capability is asked at each hop, and what is blocked is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from metacore.addons.guest_context import GuestContext
from metacore.capabilities.access import Access, CapabilityKind, Gate
from metacore.capabilities.targets import host_target
from metacore.egress.outbound import Outbound, OutboundRequest, OutboundResponse
from metacore.egress.targets import parse_target
from metacore.errors import PermissionDenied
from metacore.logs import get_logger

log = get_logger(__name__)

BLOCKED: Final = "blocked_address"
"""The broker's code for an address that nobody may reach, in shadow and in enforce."""


class EgressGate(Gate, Protocol):
    def record_refused(self, access: Access, reason: str) -> None: ...


class AddonEgress:
    """`outbound` for addons, behind `gate`."""

    def __init__(self, outbound: Outbound, gate: EgressGate) -> None:
        self._outbound = outbound
        self._gate = gate

    async def send(self, who: GuestContext, request: OutboundRequest, *, own: str = "") -> OutboundResponse:
        """Send `request` for an addon. `own` is the URL of its backend: its host and port need no capability, as its
        own tables need none.

        Raises:
            PermissionDenied: `forbidden` in enforce for a host that was not granted, `blocked_address` in both modes;
                and what else `Outbound.send` raises.
        """
        backend = parse_target(own) if own else None
        last = Access(who.addon_key, CapabilityKind.HTTP_FETCH, "", who.organization_id, who.caller)

        def gate(host: str, port: int) -> None:
            nonlocal last
            target = host_target(host, port)
            last = Access(who.addon_key, CapabilityKind.HTTP_FETCH, target, who.organization_id, who.caller)
            if backend is None or (host, port) != (backend.host, backend.port):
                self._gate.require(last)

        try:
            return await self._outbound.send(replace(request, owner=who.addon_key), gate=gate)
        except PermissionDenied as error:
            if error.code == BLOCKED:
                self._gate.record_refused(last, "an address that may not be reached")
            raise
