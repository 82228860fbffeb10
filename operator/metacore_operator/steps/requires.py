"""Wait for the addons that a bundle requires. They may be declared by others, in any order."""

from __future__ import annotations

from collections.abc import Sequence

from metacore.manifest.compatibility import satisfies
from metacore.manifest.model import Requirement
from metacore_operator.outcomes import Outcome, Reason, Stalled, Waiting
from metacore_operator.steps.context import Context
from metacore_operator.steps.state import InstalledAddon

KERNEL = "kernel"


async def unmet(context: Context) -> Outcome | None:
    """What stands in the way, or None. Waiting ends by itself as soon as the other addon is there."""
    assert context.bundle is not None
    manifest, demands = context.bundle.manifest, context.ports.demands
    needed = needed_of(manifest.key, manifest.requires)
    demands.note(manifest.key, needed)
    for requirement in needed:
        other = await context.ports.state.installed(requirement.key)
        problem = _problem(context, requirement, other)
        if problem:
            circle = demands.circle(manifest.key, await _unmet_keys(context))
            if circle:
                way = " → ".join(circle)
                return Stalled(Reason.DEPENDENCY_CYCLE, f"addons require each other in a circle: {way}")
            return Waiting(
                Reason.DEPENDENCY_PENDING, f"version {manifest.version} requires addon {_wish(requirement)}, {problem}"
            )
    return None


def needed_of(key: str, requirements: Sequence[Requirement]) -> tuple[Requirement, ...]:
    """Those that must be there: neither optional, nor the kernel, nor the addon itself."""
    return tuple(item for item in requirements if not item.optional and item.key not in (KERNEL, key))


def _wish(requirement: Requirement) -> str:
    return f"{requirement.key!r} {requirement.version}".removesuffix(" *")


def _problem(context: Context, requirement: Requirement, other: InstalledAddon | None) -> str:
    if other is None or not other.digest:
        return "which is not installed"
    if not satisfies(other.version, requirement.version):
        return f"and version {other.version} is installed"
    if other.fenced_reason:
        return f"which is fenced ({other.fenced_reason})"
    without = [organization for organization in context.chosen.organizations if organization not in other.organizations]
    if without:
        return f"which organization {without[0]} does not have"
    return ""


async def _unmet_keys(context: Context) -> dict[str, set[str]]:
    """By addon: what it requires and is not there in a version that will do, as far as bundles were looked at."""
    found: dict[str, set[str]] = {}
    known: dict[str, InstalledAddon | None] = {}
    for key, requirements in context.ports.demands.all.items():
        for requirement in requirements:
            if requirement.key not in known:
                known[requirement.key] = await context.ports.state.installed(requirement.key)
            if _problem(context, requirement, known[requirement.key]):
                found.setdefault(key, set()).add(requirement.key)
    return found
