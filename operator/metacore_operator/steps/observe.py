"""Look at what is really there, whatever the other steps said: counts for the status, and drift of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from metacore.bundle.read import Bundle, read_bundle
from metacore.installer.steps import StepKind
from metacore_operator.conditions import Observed
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.resources.status import KernelCounts, OrganizationCounts, ViolationCounts
from metacore_operator.steps.context import Context
from metacore_operator.steps.state import InstalledAddon, Kernel, Violations

SHOWN = 5


async def run(context: Context) -> Outcome:
    state, addon = context.ports.state, context.addon
    installed = await state.installed(addon.key)
    if installed is None or installed.owner_uid != addon.metadata.uid:
        # Nothing there, or somebody else's: none of it is this Addon's to tell.
        context.observed = Observed(organizations=OrganizationCounts(desired=len(context.chosen.organizations)))
        return Done(Reason.NO_DRIFT, "nothing is installed yet")
    kernels = await state.kernels()
    violations = await state.violations(addon.key)
    context.observed = _observed(context, installed, kernels, violations)
    if installed.fenced_reason:
        return Done(Reason.NO_DRIFT, "fenced, so its tables are not looked at")
    bundle = await _installed_bundle(context, installed)
    if bundle is None:
        return Done(Reason.NO_DRIFT, "nothing is installed yet")
    there = [organization for organization in context.chosen.organizations if organization in installed.organizations]
    plan = await context.ports.installer.plan(bundle, there)
    lacking = [step.name for step in plan.steps if step.kind not in (StepKind.CLAIM, StepKind.INSTALL)]
    if context.mended:
        names = ", ".join(context.mended[:SHOWN])
        more = f" and {len(context.mended) - SHOWN} more" if len(context.mended) > SHOWN else ""
        return Done(Reason.DRIFT_MENDED, f"was missing or changed from outside, and was put back: {names}{more}")
    if lacking:
        names = ", ".join(lacking[:SHOWN])
        return Waiting(Reason.DRIFT_FOUND, f"the database lacks what version {installed.version} needs: {names}")
    return Done(Reason.NO_DRIFT, f"the database holds what version {installed.version} needs")


async def _installed_bundle(context: Context, installed: InstalledAddon) -> Bundle | None:
    if context.bundle is not None and context.bundle.digest == installed.digest:
        return context.bundle
    stored = await context.ports.state.bundle(installed.digest) if installed.digest else None
    return await asyncio.to_thread(read_bundle, stored.content) if stored is not None else None


def _observed(
    context: Context, installed: InstalledAddon, kernels: Sequence[Kernel], violations: Violations
) -> Observed:
    acknowledged = 0
    for kernel in kernels:
        loaded = kernel.addons.get(installed.key)
        acknowledged += loaded is not None and loaded.digest == installed.digest and not loaded.error
    # An addon that wants to be enforced is, whatever the kernels do with the others.
    modes = {"enforce" if installed.mode == "enforce" else kernel.mode for kernel in kernels}
    return Observed(
        key=installed.key,
        version=installed.version,
        digest=installed.digest,
        signer=installed.signer,
        schema_revision=installed.schema_revision,
        mode="mixed" if len(modes) > 1 else next(iter(modes), ""),
        organizations=OrganizationCounts(
            desired=len(context.chosen.organizations) + len(context.chosen.missing),
            installed=len(installed.organizations),
        ),
        kernels=KernelCounts(live=len(kernels), acknowledged=acknowledged),
        violations=ViolationCounts(day=violations.day, total=violations.total),
    )
