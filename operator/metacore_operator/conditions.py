"""The one place that turns what the steps said into the status of an Addon and into Events.

Conditions follow kstatus: `Reconciling` and `Stalled` are there only while they are true, never both, and every
condition carries the generation that it speaks of. All functions are pure.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from metacore_operator.outcomes import ConditionType, Done, Outcome, Reason, Stalled, StepResult, Waiting, decides
from metacore_operator.resources.status import (
    AddonStatus,
    Condition,
    HistoryEntry,
    KernelCounts,
    OrganizationCounts,
    Phase,
    ViolationCounts,
)

ConditionStatus = Literal["True", "False", "Unknown"]

ABNORMAL_WHEN_TRUE = frozenset({ConditionType.DRIFTED})
"""Conditions of steps whose success means False."""

CALM_REASONS = frozenset(
    {Reason.PROGRESSING, Reason.KERNELS_PENDING, Reason.HANDLERS_PENDING, Reason.SUSPENDED, Reason.DELETING}
)
"""Waiting for these is the ordinary course of things, so their Events are no warnings."""

ORDER = tuple(ConditionType)

LONGEST_MESSAGE = 1024
"""Characters of a condition's message: a status is read, copied and kept many times."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an Addon, for people: a Kubernetes Event or a log line."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the database and the kernels hold, whatever the steps said. Empty strings where nothing is installed."""

    key: str = ""
    version: str = ""
    digest: str = ""
    signer: str = ""
    schema_revision: int = 0
    mode: str = ""
    organizations: OrganizationCounts = field(default_factory=OrganizationCounts)
    kernels: KernelCounts = field(default_factory=KernelCounts)
    violations: ViolationCounts = field(default_factory=ViolationCounts)

    @classmethod
    def before(cls, previous: AddonStatus) -> Self:
        """What the last status says, where nothing newer is known."""
        return cls(
            key=previous.key,
            version=previous.version,
            digest=previous.digest,
            signer=previous.signer,
            schema_revision=previous.schema_revision,
            mode=previous.observed_mode,
            organizations=previous.organizations,
            kernels=previous.kernels,
            violations=previous.violations,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """`decisive` is the outcome that made Ready what it is: the first that keeps it from being true, else a Done."""

    status: AddonStatus
    events: tuple[Event, ...]
    decisive: Outcome


def summarise(
    previous: AddonStatus,
    generation: int,
    results: Sequence[StepResult],
    observed: Observed,
    *,
    now: datetime.datetime,
    history_limit: int,
) -> Summary:
    """The status after one reconcile of `generation`, and the Events of what changed.

    A condition whose step was not reached stays as it was: it speaks of the version that is still there.
    """
    decisive = next((result.outcome for result in results if decides(result.outcome)), None) or Done(
        Reason.SUCCEEDED, "; ".join((_ready_message(observed), *_asides(results)))
    )
    changes = _Changes(previous, generation, now)
    for result in results:
        for kind in result.conditions:
            good = isinstance(result.outcome, Done) is not (kind in ABNORMAL_WHEN_TRUE)
            changes.put(kind, "True" if good else "False", result.outcome)
    changes.put(ConditionType.READY, "True" if isinstance(decisive, Done) else "False", decisive)
    changes.put_or_remove(ConditionType.RECONCILING, decisive, present=isinstance(decisive, Waiting))
    changes.put_or_remove(ConditionType.STALLED, decisive, present=isinstance(decisive, Stalled))
    if observed.digest and previous.digest not in ("", observed.digest):
        message = f"version {observed.version} ({observed.digest[:12]}) replaced {previous.version}"
        changes.announce(Event("Normal", Reason.INSTALLED, message))
    status = previous.model_copy(
        update={
            "observed_generation": generation,
            "phase": _phase(decisive),
            "key": observed.key,
            "version": observed.version,
            "digest": observed.digest,
            "signer": observed.signer,
            "schema_revision": observed.schema_revision,
            "observed_mode": observed.mode,
            "organizations": observed.organizations,
            "kernels": observed.kernels,
            "violations": observed.violations,
            "history": _history(previous, observed, now, history_limit),
            "conditions": changes.conditions,
        }
    )
    return Summary(status, changes.events, decisive)


def refused(
    previous: AddonStatus,
    generation: int,
    reason: Reason,
    message: str,
    *,
    now: datetime.datetime,
    history_limit: int,
) -> Summary:
    """The status of an Addon whose declaration cannot be worked on: stalled, and what was observed stays."""
    result = StepResult("declaration", (), Stalled(reason, message))
    return summarise(previous, generation, [result], Observed.before(previous), now=now, history_limit=history_limit)


def began(previous: AddonStatus, generation: int, *, now: datetime.datetime) -> AddonStatus:
    """The status while a new generation is worked on; `observedGeneration` rises only when it was."""
    changes = _Changes(previous, generation, now)
    changes.put(ConditionType.RECONCILING, "True", Waiting(Reason.PROGRESSING, f"reconciling generation {generation}"))
    changes.remove(ConditionType.STALLED)
    return previous.model_copy(update={"phase": Phase.PROGRESSING, "conditions": changes.conditions})


def suspended(previous: AddonStatus, generation: int, by: str, *, now: datetime.datetime) -> Summary:
    """The status while the spec or an annotation (`by`) says suspend: everything stays, and nothing is under way."""
    outcome = Done(Reason.SUSPENDED, f"suspended by {by}; what is installed serves on")
    changes = _Changes(previous, generation, now)
    changes.remove(ConditionType.RECONCILING)
    changes.remove(ConditionType.STALLED)
    events = () if previous.phase is Phase.SUSPENDED else (Event("Normal", outcome.reason, outcome.message),)
    status = previous.model_copy(
        update={"observed_generation": generation, "phase": Phase.SUSPENDED, "conditions": changes.conditions}
    )
    return Summary(status, events, outcome)


def deleting(previous: AddonStatus, generation: int, outcome: Waiting, *, now: datetime.datetime) -> Summary:
    """The status while a deleted Addon is being removed, or while that failed."""
    changes = _Changes(previous, generation, now)
    changes.put(ConditionType.READY, "False", outcome)
    changes.put(ConditionType.RECONCILING, "True", outcome)
    changes.remove(ConditionType.STALLED)
    status = previous.model_copy(update={"phase": Phase.DELETING, "conditions": changes.conditions})
    return Summary(status, changes.events, outcome)


class _Changes:
    """The conditions as they become, and what is told about it."""

    def __init__(self, previous: AddonStatus, generation: int, now: datetime.datetime) -> None:
        self._old: Mapping[str, Condition] = {condition.type: condition for condition in previous.conditions}
        self._new = dict(self._old)
        self._generation = generation
        self._now = now.replace(microsecond=0)
        self._events: list[Event] = []

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(sorted(self._new.values(), key=lambda condition: ORDER.index(ConditionType(condition.type))))

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(dict.fromkeys(self._events))

    def put(self, kind: ConditionType, status: ConditionStatus, outcome: Outcome) -> None:
        old = self._old.get(kind)
        if old is not None and _still_worth_telling(old, outcome, self._generation):
            return
        same_status = old is not None and old.status == status
        self._new[kind] = Condition(
            type=kind.value,
            status=status,
            reason=outcome.reason.value,
            message=cut(outcome.message),
            observed_generation=self._generation,
            last_transition_time=old.last_transition_time if old is not None and same_status else self._now,
        )
        changed = old is None or not same_status or old.reason != outcome.reason
        changed = changed and not self._told(kind, status, outcome)
        if (changed or outcome.reason is Reason.DRIFT_MENDED) and kind is not ConditionType.RECONCILING:
            self.announce(Event("Warning" if _alarming(outcome) else "Normal", outcome.reason, cut(outcome.message)))

    def _told(self, kind: ConditionType, status: ConditionStatus, outcome: Outcome) -> bool:
        """Whether another condition says so already: the fence that one step met is met by an earlier one later."""
        same = (status, outcome.reason.value, cut(outcome.message))
        others = (old for old in self._old.values() if old.type not in (kind.value, ConditionType.RECONCILING.value))
        return any((old.status, old.reason, old.message) == same for old in others)

    def put_or_remove(self, kind: ConditionType, outcome: Outcome, *, present: bool) -> None:
        if present:
            self.put(kind, "True", outcome)
        else:
            self.remove(kind)

    def remove(self, kind: ConditionType) -> None:
        self._new.pop(kind, None)

    def announce(self, event: Event) -> None:
        self._events.append(event)


def cut(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"


def _still_worth_telling(old: Condition, outcome: Outcome, generation: int) -> bool:
    """What was mended stays to be read while nothing new is: an Event alone is gone after an hour."""
    mended = old.reason == Reason.DRIFT_MENDED and old.observed_generation == generation
    return mended and outcome.reason is Reason.NO_DRIFT


def _alarming(outcome: Outcome) -> bool:
    if isinstance(outcome, Done):
        return outcome.reason is Reason.DRIFT_MENDED
    return outcome.reason not in CALM_REASONS


def _phase(outcome: Outcome) -> Phase:
    if isinstance(outcome, Stalled):
        return Phase.STALLED
    if isinstance(outcome, Waiting):
        return Phase.PROGRESSING if outcome.reason in CALM_REASONS else Phase.WAITING
    return Phase.READY


def _ready_message(observed: Observed) -> str:
    organizations, kernels = observed.organizations.installed, observed.kernels.live
    return (
        f"version {observed.version} is installed in {organizations} organization{'s' * (organizations != 1)} "
        f"and served by {kernels} kernel{'s' * (kernels != 1)}"
    )


def _asides(results: Sequence[StepResult]) -> list[str]:
    """What is not as it should be and keeps nothing from being ready."""
    outcomes = [result.outcome for result in results if not isinstance(result.outcome, Done)]
    return [f"{outcome.reason.value}: {outcome.message}" for outcome in outcomes if not decides(outcome)]


def _history(previous: AddonStatus, observed: Observed, now: datetime.datetime, limit: int) -> tuple[HistoryEntry, ...]:
    history = previous.history
    if observed.digest and (not history or history[0].digest != observed.digest):
        entry = HistoryEntry(
            version=observed.version,
            digest=observed.digest,
            signer=observed.signer,
            installed_at=now.replace(microsecond=0),
        )
        history = (entry, *history)
    return history[:limit]
