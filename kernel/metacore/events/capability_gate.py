"""The bus asks the enforcer: what addons may emit and subscribe to, and which events are theirs to see."""

from __future__ import annotations

from uuid import UUID

from metacore.capabilities.access import Access, CapabilityKind
from metacore.capabilities.access import Gate as Enforcer
from metacore.events.bus import BusEvent
from metacore.registry import Registry

CALLER = "bus"


class CapabilityGate:
    """`bus.Gate` over the grants of addons.

    A subscription made in shadow does not outlive it: every event is asked about again before it is handed over. No
    event of an organization reaches an addon that this organization lacks, has disabled, or that is fenced.
    """

    def __init__(self, enforcer: Enforcer, registry: Registry) -> None:
        self._enforcer = enforcer
        self._registry = registry

    def may_emit(self, addon_key: str, event: str, organization_id: UUID) -> bool:
        return self._allowed(addon_key, CapabilityKind.EVENT_EMIT, event, organization_id)

    def may_subscribe(self, addon_key: str, pattern: str) -> bool:
        if not self._registry.loaded:
            # Addons that are linked into a host boot before anybody knows what they were granted; each event is asked
            # about when it comes.
            return True
        return self._allowed(addon_key, CapabilityKind.EVENT_SUBSCRIBE, pattern, None)

    def may_receive(self, addon_key: str, event: BusEvent) -> bool:
        snapshot = self._registry.snapshot
        installed = snapshot.installed.get(event.organization_id, {}).get(addon_key)
        addon = snapshot.addons.get(addon_key)
        if installed is None or not installed.enabled or addon is None or addon.fenced_reason:
            return False
        return self._allowed(addon_key, CapabilityKind.EVENT_SUBSCRIBE, event.name, event.organization_id)

    def _allowed(self, addon_key: str, kind: CapabilityKind, target: str, organization_id: UUID | None) -> bool:
        return self._enforcer.decide(Access(addon_key, kind, target, organization_id, CALLER)).allowed
