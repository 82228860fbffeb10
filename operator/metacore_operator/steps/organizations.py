"""Which tenants an Addon means. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from metacore_operator.resources.spec import Organizations, OrganizationSelector, SelectorRequirement
from metacore_operator.steps.state import Tenant


@dataclass(frozen=True, slots=True)
class Chosen:
    """`missing` are names without a tenant, `ambiguous` those of several: anybody may call an organization anything."""

    organizations: tuple[uuid.UUID, ...]
    missing: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()


def choose(wanted: Organizations, tenants: Sequence[Tenant]) -> Chosen:
    if wanted.names is not None:
        return _named(wanted.names, tenants)
    if wanted.selector is not None:
        return Chosen(tuple(tenant.id for tenant in tenants if matches(wanted.selector, tenant)))
    return Chosen(tuple(tenant.id for tenant in tenants))


def matches(selector: OrganizationSelector, tenant: Tenant) -> bool:
    return all(tenant.labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(requirement, tenant) for requirement in selector.match_expressions
    )


def _holds(requirement: SelectorRequirement, tenant: Tenant) -> bool:
    # As in Kubernetes, NotIn also holds where the label is absent.
    present, value = requirement.key in tenant.labels, tenant.labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return present
        case "DoesNotExist":
            return not present


def _named(names: Sequence[str], tenants: Sequence[Tenant]) -> Chosen:
    chosen: dict[uuid.UUID, None] = {}
    missing: list[str] = []
    ambiguous: list[str] = []
    for name in names:
        by_id = [tenant.id for tenant in tenants if str(tenant.id) == name.lower()]
        found = by_id or [tenant.id for tenant in tenants if tenant.name == name]
        if len(found) == 1:
            chosen[found[0]] = None
        else:
            (ambiguous if found else missing).append(name)
    return Chosen(tuple(chosen), tuple(missing), tuple(ambiguous))
