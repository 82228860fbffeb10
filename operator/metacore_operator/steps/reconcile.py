"""One reconcile of one Addon: the steps in their order, and what becomes of the status."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from metacore.errors import Conflict, KeyOwned, MetacoreError
from metacore.logs import get_logger
from metacore_operator import conditions
from metacore_operator.conditions import Observed, Summary
from metacore_operator.outcomes import ConditionType, Done, Outcome, Reason, StepResult, Waiting
from metacore_operator.resources.addon import FORCE, PAUSE, REQUESTED_AT, ROTATE_SECRETS, Addon
from metacore_operator.steps import capabilities, fetch, install, observe, preflight, serve, verify
from metacore_operator.steps.context import Context, Ports
from metacore_operator.steps.organizations import choose

log = get_logger(__name__)

NEEDED_RETRY_SECONDS = 5.0
"""How soon a deletion that others hold up looks whether they are gone."""


@dataclass(frozen=True, slots=True)
class Step:
    """`always` steps run even when an earlier one stopped the rest."""

    name: str
    conditions: tuple[ConditionType, ...]
    run: Callable[[Context], Awaitable[Outcome]]
    always: bool = False


STEPS = (
    Step("fetch", (ConditionType.FETCHED,), fetch.run),
    Step("verify", (ConditionType.VERIFIED,), verify.run),
    Step("preflight", (ConditionType.PREFLIGHT_PASSED,), preflight.run),
    Step("capabilities", (ConditionType.CAPABILITIES_ACCEPTED,), capabilities.run),
    Step("install", (ConditionType.MIGRATED, ConditionType.INSTALLED), install.run),
    Step("serve", (ConditionType.SERVED,), serve.run),
    Step("observe", (ConditionType.DRIFTED,), observe.run, always=True),
)


async def reconcile(addon: Addon, ports: Ports, *, now: Callable[[], datetime.datetime]) -> Summary:
    """Bring the database in line with `addon` and say how it went. Never raises for what a step met."""
    generation = addon.metadata.generation
    if addon.spec.suspend or addon.paused:
        by = "the spec" if addon.spec.suspend else f"the annotation {PAUSE}"
        return echoing(conditions.suspended(addon.status, generation, by, now=now()), addon, {REQUESTED_AT})
    tenants = await ports.state.tenants()
    context = Context(
        addon,
        ports,
        chosen=choose(addon.spec.organizations, tenants),
        installed=await ports.state.installed(addon.key),
        visible=frozenset(tenant.id for tenant in tenants),
    )
    results: list[StepResult] = []
    stopped = False
    for step in STEPS:
        if stopped and not step.always:
            continue
        outcome = await _run(step, context)
        results.append(StepResult(step.name, step.conditions, outcome))
        stopped = stopped or not (isinstance(outcome, Done) or (isinstance(outcome, Waiting) and outcome.proceed))
    if context.fetched is None and context.installed is not None and context.installed.fenced_reason:
        # The source gives nothing that could be verified, and what is installed was fenced: that comes first.
        told = verify.fenced(context.installed)
        results = [StepResult("verify", (ConditionType.VERIFIED,), told), *(r for r in results if r.step != "verify")]
    handled = (
        {REQUESTED_AT}
        | ({FORCE} if context.installed_now and not context.without_source else set())
        | ({ROTATE_SECRETS} if context.rotated else set())
    )
    summary = conditions.summarise(
        addon.status,
        generation,
        results,
        # What could not be looked at is as it was.
        context.observed or Observed.before(addon.status),
        now=now(),
        history_limit=addon.spec.revision_history_limit,
    )
    if context.disabled_by_spec is not None:
        status = summary.status.model_copy(update={"disabled_by_spec": context.disabled_by_spec})
        summary = replace(summary, status=status)
    return echoing(summary, addon, handled)


def echoing(summary: Summary, addon: Addon, handled: Collection[str]) -> Summary:
    """`summary` with the values of the annotations that were acted on, so that who asked sees that it was done."""
    fields = {
        REQUESTED_AT: "last_handled_requested_at",
        FORCE: "last_handled_force",
        ROTATE_SECRETS: "last_handled_rotate_secrets",
    }
    update = {fields[annotation]: addon.asked(annotation) for annotation in handled}
    return replace(summary, status=summary.status.model_copy(update=update))


async def remove(addon: Addon, ports: Ports) -> Outcome:
    """Take the addon out of every organization, because its Addon is gone. Data stays unless the spec says Drop."""
    try:
        await ports.installer.remove(addon.key, drop=addon.spec.deletion_policy == "Drop", owner_uid=addon.metadata.uid)
    except Conflict as error:
        if error.code == "required":
            return Waiting(Reason.NEEDED_BY_OTHERS, error.message, retry_after=NEEDED_RETRY_SECONDS)
        if not isinstance(error, KeyOwned):
            return Waiting(Reason.STEP_FAILED, f"removing failed: {error.message}")
        return Done(Reason.REMOVED, f"addon {addon.key!r} belongs to another Addon and stays")
    except MetacoreError as error:
        return Waiting(Reason.STEP_FAILED, f"removing failed: {error.message}")
    except Exception as error:
        log.exception("addon.remove_failed", addon=addon.full_name)
        return Waiting(Reason.STEP_FAILED, f"removing failed: {type(error).__name__}")
    ports.demands.forget(addon.key)
    ports.sightings.forget(addon.metadata.uid)
    ports.shelf.forget(addon.metadata.uid)
    kept = "data dropped" if addon.spec.deletion_policy == "Drop" else "data kept"
    return Done(Reason.REMOVED, f"addon {addon.key!r} was removed, {kept}")


async def _run(step: Step, context: Context) -> Outcome:
    try:
        return await step.run(context)
    except MetacoreError as error:
        return Waiting(Reason.STEP_FAILED, f"{step.name}: {error.message}")
    except Exception as error:
        # A status is read by many, so it tells the kind of error only; the log tells the rest.
        log.exception("addon.step_failed", addon=context.addon.full_name, step=step.name)
        return Waiting(Reason.STEP_FAILED, f"{step.name} failed: {type(error).__name__}")
