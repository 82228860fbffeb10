"""What people are told of a decision: the status of the ModeRollout, and an Event when something changed. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metacore_operator.outcomes import ConditionType
from metacore_operator.resources.mode_rollout import MOST_PODS, ModeRolloutStatus, PodMode
from metacore_operator.resources.status import Condition
from metacore_operator.rollout.decide import Decision
from metacore_operator.rollout.sight import PodSight, Sight
from metacore_operator.rollout.wish import Wish
from metacore_operator.rollout.words import ALARMING, Phase

LONGEST_PROBLEM = 200
"""Characters of a pod's problem in the list; the kubelet's words can be long."""


@dataclass(frozen=True, slots=True)
class Told:
    """An Event: `type` as Kubernetes has it."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def status_of(
    decision: Decision, wish: Wish, sight: Sight, previous: ModeRolloutStatus, now: datetime.datetime
) -> ModeRolloutStatus:
    """The status after `decision`; conditions keep the time at which they last changed."""
    record = decision.record
    # A pod that ends and whose kernel has said goodbye is in no mode any more.
    pods = [pod for pod in sight.pods if pod.observed or not pod.ending]
    return ModeRolloutStatus(
        phase=decision.phase.value,
        wish=wish.text,
        mode=record.mode.value,
        former=record.former_mode.value,
        pods=sight.words,
        kernels=tuple(_pod(pod) for pod in pods[:MOST_PODS]),
        conditions=_conditions(decision, previous, now.replace(microsecond=0)),
    )


def events_of(status: ModeRolloutStatus, previous: ModeRolloutStatus) -> Sequence[Told]:
    """One for each change of phase or reason, none for what only goes on."""
    ready, before = status.condition(ConditionType.READY), previous.condition(ConditionType.READY)
    assert ready is not None
    # The first status of a release whose wish is met already is no news.
    if before is None and status.phase == Phase.SETTLED:
        return ()
    # That a return has ended is no news either: what led to it was told.
    goes_on = previous.phase == status.phase or (previous.phase, status.phase) == (Phase.RETURNING, Phase.REFUSED)
    if before is not None and before.reason == ready.reason and goes_on:
        return ()
    return (Told("Warning" if ready.reason in ALARMING else "Normal", ready.reason, ready.message),)


def _pod(pod: PodSight) -> PodMode:
    return PodMode(
        name=pod.name,
        mode=pod.mode.value,
        observed=pod.observed.value if pod.observed else "",
        ready=pod.ready,
        problem=pod.problem[:LONGEST_PROBLEM],
    )


def _conditions(decision: Decision, previous: ModeRolloutStatus, now: datetime.datetime) -> tuple[Condition, ...]:
    """As kstatus has it: Reconciling and Stalled are there while they are true, and never both."""
    settled, refused = decision.phase is Phase.SETTLED, decision.phase is Phase.REFUSED
    kinds = [(ConditionType.READY, "True" if settled else "False")]
    if not settled:
        kinds.append((ConditionType.STALLED if refused else ConditionType.RECONCILING, "True"))
    conditions = []
    for kind, status in kinds:
        old = previous.condition(kind)
        since = old.last_transition_time if old is not None and old.status == status else now
        conditions.append(
            Condition.model_validate(
                {
                    "type": kind.value,
                    "status": status,
                    "reason": decision.reason.value,
                    "message": decision.message,
                    "lastTransitionTime": since,
                }
            )
        )
    return tuple(conditions)
