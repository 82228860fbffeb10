"""Look before anything changes: whose the key is, the pure plan of the installation, what it puts at risk."""

from __future__ import annotations

from collections.abc import Collection

from metacore.errors import Conflict, ModelConflict, Refused
from metacore.installer.plan import Plan, Risk
from metacore.installer.steps import RiskKind, StepKind
from metacore_operator.outcomes import Done, Outcome, Reason, Stalled, Waiting
from metacore_operator.steps import requires, settings
from metacore_operator.steps.context import Context

DOWNGRADE = "downgrade"
SHOWN_RISKS = 3


async def run(context: Context) -> Outcome:
    assert context.bundle is not None
    if (
        refusal := _claimed(context)
        or _ambiguous(context)
        or await requires.unmet(context)
        or await settings.gather(context)
    ):
        return refusal
    version, waivers = context.bundle.manifest.version, context.addon.spec.preflight.waivers
    # Whoever names the one bundle that may be installed means it, also when it is an older one.
    context.allow_downgrade = waived(DOWNGRADE, version, waivers) or context.addon.spec.digest == context.bundle.digest
    try:
        plan = await context.ports.installer.plan(
            context.bundle, context.chosen.organizations, allow_downgrade=context.allow_downgrade
        )
    except ModelConflict as error:
        return Stalled(Reason.MODEL_CONFLICT, error.message)
    except (Refused, Conflict) as error:
        if error.code == DOWNGRADE:
            hint = f"; pin spec.digest to {context.bundle.digest} or put {DOWNGRADE}@{version} into preflight.waivers"
            return Stalled(Reason.DOWNGRADE_REFUSED, error.message + hint)
        if error.code == "requires":
            return Waiting(Reason.DEPENDENCY_PENDING, error.message)
        return Stalled(Reason.PLAN_REFUSED, error.message)
    risks = data_at_risk(plan)
    if risks and not waived(RiskKind.DATA_LOSS, version, waivers):
        shown = "; ".join(risk.message for risk in risks[:SHOWN_RISKS])
        more = f" and {len(risks) - SHOWN_RISKS} more" if len(risks) > SHOWN_RISKS else ""
        return Stalled(
            Reason.DATA_AT_RISK,
            f"version {version}: {shown}{more}; to accept it put {RiskKind.DATA_LOSS}@{version} into preflight.waivers",
        )
    return Done(Reason.PLAN_ACCEPTED, f"{len(plan.steps)} steps" if plan.changed else "there is nothing to do")


def data_at_risk(plan: Plan) -> tuple[Risk, ...]:
    """What the plan takes away from rows that are there; a schema that it makes itself holds none."""
    fresh = {step.schema for step in plan.steps if step.kind is StepKind.SCHEMA}
    return tuple(risk for risk in plan.risks if risk.kind is RiskKind.DATA_LOSS and risk.subject not in fresh)


def waived(code: str, version: str, waivers: Collection[str]) -> bool:
    """A waiver is a code, or better `<code>@<version>`, which does not outlive its purpose."""
    return code in waivers or f"{code}@{version}" in waivers


def _claimed(context: Context) -> Outcome | None:
    """The installer holds the same rule under its lock; here it is told before anybody is asked for anything."""
    installed, uid = context.installed, context.addon.metadata.uid
    if installed is None or installed.owner_uid == uid or not (installed.digest or installed.organizations):
        return None
    holder = "another Addon" if installed.owner_uid else "an installation through the API or a host"
    return Stalled(Reason.KEY_OWNED, f"addon key {context.addon.key!r} is claimed by {holder}")


def _ambiguous(context: Context) -> Outcome | None:
    if not context.chosen.ambiguous:
        return None
    names = ", ".join(repr(name) for name in context.chosen.ambiguous)
    return Stalled(Reason.ORGANIZATION_AMBIGUOUS, f"several organizations are called {names}: name them by their ids")
