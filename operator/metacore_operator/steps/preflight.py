"""Look before anything changes: whose the key is, the pure plan of the installation, what it puts at risk."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from metacore.errors import Conflict, ModelConflict, Refused, Unavailable
from metacore.installer.plan import Plan
from metacore.installer.steps import Impact, Rehearsal, RiskKind
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
    try:
        rehearsal = await _rehearsed(context, plan)
    except Unavailable as error:
        return Waiting(Reason.STEP_FAILED, error.message)
    if rehearsal.failure:
        return Stalled(Reason.REHEARSAL_FAILED, f"version {version}, tried on a copy: {rehearsal.failure}")
    risks = [risk for risk in (*plan.data_at_risk, *rehearsal.risks) if not waived(risk.kind.value, version, waivers)]
    if risks:
        reason = Reason.DATA_AT_RISK if risks[0].kind is RiskKind.DATA_LOSS else Reason.MIGRATION_RISKY
        codes = ", ".join(f"{code}@{version}" for code in dict.fromkeys(risk.kind.value for risk in risks))
        told = _shown([risk.message for risk in risks])
        return Stalled(reason, f"version {version}: {told}; to accept it put {codes} into preflight.waivers")
    return Done(Reason.PLAN_ACCEPTED, _accepted(plan, rehearsal))


async def _rehearsed(context: Context, plan: Plan) -> Rehearsal:
    """How the migrations go on a copy of what is there, where there is anything to try."""
    assert context.bundle is not None
    if not plan.migrates and not any(risk.kind is RiskKind.REWRITE for risk in plan.risks):
        return Rehearsal()
    known, digest = context.ports.rehearsals, context.bundle.digest
    installed = context.installed.digest if context.installed is not None else ""
    found = None if context.addon.forced else known.recall(plan.addon_key, digest, installed)
    if found is None:
        context.ports.progress("rehearsal")
        found = await context.ports.installer.rehearse(context.bundle, context.chosen.organizations, plan)
        known.remember(plan.addon_key, digest, installed, found)
    return found


def _accepted(plan: Plan, rehearsal: Rehearsal) -> str:
    """What is about to happen, with what the rehearsal saw."""
    if not plan.changed:
        return "there is nothing to do"
    told = [f"{len(plan.steps)} steps"]
    if rehearsal.impacts:
        told.append("tried on a copy: " + _shown([_told(impact) for impact in rehearsal.impacts]))
    if plan.data_rewritten:
        told.append(_shown([risk.message for risk in plan.data_rewritten]))
    told.extend(rehearsal.notes[:SHOWN_RISKS])
    return "; ".join(told)


def _told(impact: Impact) -> str:
    rows = f"{'more than ' * impact.more}{impact.rows} row{'s' * (impact.rows != 1)}"
    rewrites = ", written anew" if impact.rewrites else ""
    return f"{impact.place} {impact.statement} of {impact.table} ({impact.lock}{rewrites}, {rows})"


def _shown(messages: Sequence[str]) -> str:
    more = f" and {len(messages) - SHOWN_RISKS} more" if len(messages) > SHOWN_RISKS else ""
    return "; ".join(messages[:SHOWN_RISKS]) + more


def waived(code: str, version: str, waivers: Collection[str]) -> bool:
    """A waiver is a code, or better `<code>@<version>`, which does not outlive its purpose."""
    return code in waivers or f"{code}@{version}" in waivers


def _claimed(context: Context) -> Outcome | None:
    """The installer holds the same rule under its lock; here it is told before anybody is asked for anything."""
    installed, uid = context.installed, context.addon.metadata.uid
    if installed is None or installed.owner_uid == uid or not (installed.digest or installed.organizations):
        return None
    key = context.addon.key
    holder = "another Addon" if installed.owner_uid else "an installation through the API or a host"
    hint = f"should this one take it over: metacore addons adopt {key} --uid {uid} (docs: operator, Taking over)"
    return Stalled(Reason.KEY_OWNED, f"addon key {key!r} is claimed by {holder}; {hint}")


def _ambiguous(context: Context) -> Outcome | None:
    if not context.chosen.ambiguous:
        return None
    names = ", ".join(repr(name) for name in context.chosen.ambiguous)
    return Stalled(Reason.ORGANIZATION_AMBIGUOUS, f"several organizations are called {names}: name them by their ids")
