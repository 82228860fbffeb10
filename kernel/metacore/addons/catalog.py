"""What an organization could have and has: manifests of installed addons, and the catalog of all that are loaded."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from metacore.registry import Registry


def manifests_of(registry: Registry, organization_id: UUID) -> list[dict[str, Any]]:
    """The manifests, as their authors wrote them, of every addon that is installed, enabled and trusted here."""
    snapshot = registry.snapshot
    return [
        snapshot.addons[key].manifest.raw
        for key, installed in sorted(snapshot.installed.get(organization_id, {}).items())
        if installed.enabled and key in snapshot.addons and _serves(registry, key)
    ]


def catalog_of(registry: Registry, organization_id: UUID) -> dict[str, Any]:
    """`{items: [{manifest, installable, entitled, installed, enabled, version}], total}` over every loaded addon.

    `installable` is false while an addon is fenced or quarantined; `entitled` is true for each: who may have what is
    the operator's business, which decides before anything reaches this database.
    """
    snapshot = registry.snapshot
    own = snapshot.installed.get(organization_id, {})
    items = [
        {
            "manifest": addon.manifest.raw,
            "installable": _serves(registry, key),
            "entitled": True,
            "installed": key in own,
            "enabled": key in own and own[key].enabled,
            "version": own[key].version if key in own else addon.version,
        }
        for key, addon in sorted(snapshot.addons.items())
    ]
    return {"items": items, "total": len(items)}


def _serves(registry: Registry, key: str) -> bool:
    addon = registry.snapshot.addons[key]
    return not addon.fenced_reason and not addon.error
