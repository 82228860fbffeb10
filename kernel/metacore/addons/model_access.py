"""Whether code of an addon may read or change rows of a live model."""

from __future__ import annotations

from typing import Protocol

from metacore.addons.guest_context import GuestContext
from metacore.capabilities.access import Access, CapabilityKind, Gate
from metacore.errors import PermissionDenied
from metacore.ids import KERNEL_ADDON_KEY
from metacore.orm.tables import metadata
from metacore.registry import LiveModel


class RowGate(Gate, Protocol):
    def record_refused(self, access: Access, reason: str) -> None: ...


def require_rows(gate: RowGate, context: GuestContext, kind: CapabilityKind, model: LiveModel) -> None:
    """An addon's own models are its own; others need db:read or db:write for their table. A model that a host serves
    over one of the kernel's own tables is nobody's, whatever was granted.

    Raises:
        PermissionDenied: with the code `forbidden`.
    """
    access = Access(context.addon_key, kind, target_of(model), context.organization_id, context.caller)
    if model.addon_key == KERNEL_ADDON_KEY and model.table_name in metadata.tables:
        gate.record_refused(access, "the table is the kernel's own")
        raise PermissionDenied(f"{model.table_name!r} is the kernel's own table", code="forbidden")
    gate.require(access)


def target_of(model: LiveModel) -> str:
    """The model's table as a capability names it."""
    schema = schema_named(model)
    return f"{schema}.{model.definition.table}" if schema else model.definition.table


def schema_named(model: LiveModel) -> str:
    """The schema that capabilities and guests name, '' for a model of the host."""
    return "" if model.addon_key == KERNEL_ADDON_KEY else f"addon_{model.addon_key}"
