"""What to do about the mode, from what is wished for, remembered and seen. Pure.

Guards stand before enforcing only. The way to shadow has none: it is how people undo what enforcement broke.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from metacore.capabilities.access import Mode
from metacore_operator.rollout.record import LONGEST_MESSAGE, Record, Refusal
from metacore_operator.rollout.sight import PodSight, Sight
from metacore_operator.rollout.wish import Wish
from metacore_operator.rollout.words import Phase, RolloutReason

NAMED_PODS = 2
"""So many failing pods are named in a message; the others usually fail for the same reason."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`canary`: seconds in which the first enforcing pod is watched before the others follow; 0: not at all.
    `most_violations`: more in the window refuse enforcement; None: no such guard.
    """

    canary: float = 0.0
    most_violations: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`record`, its mode and `paused` are what the Deployment shall carry; the rest is what people are told."""

    record: Record
    paused: bool
    phase: Phase
    reason: RolloutReason
    message: str


@dataclass(frozen=True, slots=True)
class _Case:
    wish: Wish
    sight: Sight
    policy: Policy
    violations: int | None
    now: datetime.datetime

    @property
    def too_many(self) -> str:
        most = self.policy.most_violations
        if most is None or self.violations is None or self.violations <= most:
            return ""
        return f"{self.violations} violations of capabilities were recorded lately, and at most {most} are allowed"


def decide(
    before: Record | None,
    wish: Wish,
    sight: Sight,
    policy: Policy,
    violations: int | None,
    now: datetime.datetime,
) -> Decision:
    """The next step. `violations` are those of the policy's window, None when they could not be counted."""
    case = _Case(wish, sight, policy, violations, now)
    record = _heard(before or _first(sight, now), wish)
    if record.under_way and not record.stamp and sight.mode is not record.mode:
        # Ours was taken away together with this record, so what stands there is another's. It must be written over.
        record = record.model_copy(update={"stamp": record.mode.value})
    if record.phase is Phase.RETURNING:
        return _returning(record, case)
    if record.under_way and record.mode is Mode.ENFORCE and wish.mode is Mode.SHADOW:
        return _give_up(record, case)
    if record.phase is Phase.CANARY:
        return _canary(record, case)
    if record.phase is Phase.ROLLING:
        return _rolling(record, case)
    return _settled(record, case)


def _first(sight: Sight, now: datetime.datetime) -> Record:
    """Of a Deployment that carries no record. Pods of another mode than the template's tell that it was lost midway."""
    other = Mode.SHADOW if sight.mode is Mode.ENFORCE else Mode.ENFORCE
    if sight.started(other):
        return Record(phase=Phase.ROLLING, stamp=sight.stamp, former=other.value, since=now)
    return Record(phase=Phase.SETTLED, stamp=sight.stamp, former=sight.stamp, since=now)


def _heard(record: Record, wish: Wish) -> Record:
    """The record without a refusal that another wish, or a request to try again, has made void."""
    if record.refusal is not None and not wish.absent:
        again = wish.asked not in ("", record.asked)
        if again or wish.text != record.wish:
            return record.model_copy(update={"refusal": None, "wish": wish.text, "asked": wish.asked})
    if record.refusal is None and record.under_way and wish.mode is record.mode:
        # Another word for the same is the same wish; if it comes to nothing, this word is not tried again.
        return record.model_copy(update={"wish": wish.text, "asked": wish.asked})
    return record


def _settled(record: Record, case: _Case) -> Decision:
    sight, wish = case.sight, case.wish
    # What new pods start with counts, should somebody else have changed it.
    record = record.model_copy(update={"phase": Phase.SETTLED, "stamp": sight.stamp, "watched": None})
    if wish.mode is None:
        message = f"{wish.problem}; the mode stays {sight.mode.value}"
        return Decision(record, False, Phase.REFUSED, wish.reason, message)
    if wish.mode is sight.mode:
        record = record.model_copy(update={"refusal": None})
        return Decision(record, False, Phase.SETTLED, RolloutReason.WISH_MET, f"mode {sight.mode.value}: {sight.words}")
    if record.refusal is not None:
        return Decision(record, False, Phase.REFUSED, record.refusal.reason, record.refusal.message)
    if wish.mode is Mode.ENFORCE and (held := _held(record, case)) is not None:
        return held
    return _begin(record, wish.mode, case)


def _held(record: Record, case: _Case) -> Decision | None:
    """Why enforcement may not begin now. It begins by itself when that has passed."""
    sight = case.sight
    if case.too_many:
        message = f"enforcement is refused: {case.too_many}"
        return Decision(record, False, Phase.REFUSED, RolloutReason.TOO_MANY_VIOLATIONS, message)
    if case.policy.most_violations is not None and case.violations is None:
        message = "violations of capabilities cannot be counted now, and enforcement waits for that"
        return Decision(record, False, Phase.WAITING, RolloutReason.VIOLATIONS_UNKNOWN, message)
    if sight.paused:
        message = "the Deployment is paused, and not by this change of mode"
        return Decision(record, False, Phase.WAITING, RolloutReason.DEPLOYMENT_PAUSED, message)
    # Where nothing serves there is nothing to protect, and pods that come up shall come up as wished.
    if sight.available and not sight.rolled:
        message = f"another rollout of the Deployment is under way: {_progress(sight)}"
        return Decision(record, False, Phase.WAITING, RolloutReason.DEPLOYMENT_BUSY, message)
    return None


def _begin(record: Record, mode: Mode, case: _Case) -> Decision:
    sight = case.sight
    canary = mode is Mode.ENFORCE and case.policy.canary > 0 and sight.desired > 1 and sight.available > 0
    begun = Record(
        phase=Phase.CANARY if canary else Phase.ROLLING,
        stamp=mode.value,
        former=sight.stamp,
        since=case.now,
        wish=case.wish.text,
        asked=case.wish.asked,
        from_nothing=sight.desired > 0 and sight.available == 0,
    )
    message = f"from {begun.former_mode.value} to {mode.value}" + (", one pod first" if canary else "")
    reason = RolloutReason.CANARY_RUNNING if canary else RolloutReason.ROLLING_OUT
    return Decision(begun, False, begun.phase, reason, message)


def _canary(record: Record, case: _Case) -> Decision:
    """The pause cannot come with the new template, because a paused Deployment makes no pod of it. So it comes when the
    first pod is there, which must become ready and stay so before its controller makes another.
    """
    sight = case.sight
    if trouble := _trouble(record, case):
        return _return(record, case, *trouble)
    if sight.complete(record.mode):
        return _finish(record, case)
    waiting = f"waiting until the first pod in {record.mode.value} serves"
    if sight.mode is not record.mode or not sight.seen:
        return Decision(record, sight.paused, Phase.CANARY, RolloutReason.CANARY_RUNNING, waiting)
    if sight.updated >= sight.desired:
        return _go_on(record, case, "all pods are new already")
    serving, started = sight.serving(record.mode), sight.started(record.mode)
    if not serving or sight.updated == 0 or (record.watched is None and len(serving) < len(started)):
        # Once watched, it went away, or an upgrade changed the template, whose first pod is a canary of its own.
        if record.watched is not None:
            record = record.model_copy(update={"watched": None, "since": case.now})
        return Decision(record, sight.updated > 0, Phase.CANARY, RolloutReason.CANARY_RUNNING, waiting)
    if record.watched is None:
        record = record.model_copy(update={"watched": case.now})
    ends = (record.watched or case.now) + datetime.timedelta(seconds=case.policy.canary)
    if case.now < ends:
        names = ", ".join(pod.name for pod in serving)
        message = f"{names} in {record.mode.value}, watched until {ends:%H:%M:%S} UTC"
        return Decision(record, True, Phase.CANARY, RolloutReason.CANARY_RUNNING, message)
    return _go_on(record, case, "the first pod did well")


def _go_on(record: Record, case: _Case, why: str) -> Decision:
    record = record.model_copy(update={"phase": Phase.ROLLING, "since": case.now, "watched": None})
    message = f"to {record.mode.value}: {why}; {_progress(case.sight)}"
    return Decision(record, False, Phase.ROLLING, RolloutReason.ROLLING_OUT, message)


def _rolling(record: Record, case: _Case) -> Decision:
    sight = case.sight
    if (trouble := _trouble(record, case)) and not record.from_nothing:
        return _return(record, case, *trouble)
    if sight.complete(record.mode):
        return _finish(record, case)
    # When nothing served before, there is nothing to return to, and what is wrong is not the mode.
    why = f"; {trouble[1]}" if trouble else ""
    message = f"to {record.mode.value}: {_progress(sight)}; {sight.words}{why}"
    return Decision(record, False, Phase.ROLLING, RolloutReason.ROLLING_OUT, message)


def _finish(record: Record, case: _Case) -> Decision:
    done = record.model_copy(update={"phase": Phase.SETTLED, "since": case.now, "watched": None})
    return _settled(done, case)


def _returning(record: Record, case: _Case) -> Decision:
    """Until everything is as it was. Pods that fail in the former mode, too, are not the mode's fault, so they are told
    and nothing else is tried.
    """
    sight = case.sight
    if sight.complete(record.mode):
        return _finish(record, case)
    why = record.refusal.message if record.refusal else f"returning to {record.mode.value}"
    failing = sight.failing(record.mode)
    also = f"; in {record.mode.value} pods fail, too: {_named(failing)}" if failing else ""
    reason = record.refusal.reason if record.refusal else RolloutReason.ROLLING_OUT
    return Decision(record, False, Phase.RETURNING, reason, f"{why} ({_progress(sight)}){also}")


def _give_up(record: Record, case: _Case) -> Decision:
    """Enforcement is no longer wished for before it was reached."""
    back = _back(record, case).model_copy(update={"wish": case.wish.text, "asked": case.wish.asked})
    return Decision(
        back, False, Phase.RETURNING, RolloutReason.ROLLING_OUT, f"returning to {back.mode.value}, as wished"
    )


def _return(record: Record, case: _Case, reason: RolloutReason, trouble: str) -> Decision:
    message = f"returned from {record.mode.value} to {record.former_mode.value}: {trouble}"[:LONGEST_MESSAGE]
    back = _back(record, case).model_copy(update={"refusal": Refusal(reason=reason, message=message)})
    return Decision(back, False, Phase.RETURNING, reason, message)


def _back(record: Record, case: _Case) -> Record:
    return record.model_copy(
        update={
            "phase": Phase.RETURNING,
            "stamp": record.former,
            "former": record.stamp,
            "since": case.now,
            "watched": None,
        }
    )


def _trouble(record: Record, case: _Case) -> tuple[RolloutReason, str] | None:
    """Why what is under way must not go on."""
    sight = case.sight
    if record.mode is Mode.ENFORCE and case.too_many:
        return RolloutReason.TOO_MANY_VIOLATIONS, case.too_many
    if failing := sight.failing(record.mode):
        return RolloutReason.PODS_FAILING, _named(failing)
    waited = (case.now - record.since).total_seconds()
    exceeded = sight.exceeded_at is not None and sight.exceeded_at >= record.since.replace(microsecond=0)
    # A paused Deployment has no deadline of its own.
    starting = record.phase is Phase.CANARY and record.watched is None and sight.paused and waited > sight.deadline
    if sight.seen and sight.mode is record.mode and (exceeded or starting):
        return RolloutReason.DEADLINE_EXCEEDED, f"no progress within {sight.deadline:.0f} s: {_progress(sight)}"
    silent = sight.heard and sight.mode is record.mode and sight.rolled and not sight.complete(record.mode)
    if silent and waited > sight.deadline:
        message = f"pods are ready, but their kernels do not say that they are in {record.mode.value}: {sight.words}"
        return RolloutReason.MODE_NOT_OBSERVED, message
    return None


def _named(pods: Sequence[PodSight]) -> str:
    named = "; ".join(f"{pod.name}: {pod.problem}" for pod in pods[:NAMED_PODS])
    return named + (f"; and {len(pods) - NAMED_PODS} more" if len(pods) > NAMED_PODS else "")


def _progress(sight: Sight) -> str:
    paused = "; the Deployment is paused" if sight.paused else ""
    return f"{sight.updated} of {sight.desired} pods are new, {sight.available} of {sight.total} available{paused}"
