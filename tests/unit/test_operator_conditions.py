"""Outcomes of steps become conditions, events, phase and history."""

from __future__ import annotations

import datetime

import pytest

from metacore_operator import conditions
from metacore_operator.conditions import Observed, Summary
from metacore_operator.outcomes import (
    ConditionType,
    Done,
    Outcome,
    Reason,
    Stalled,
    StepResult,
    Waiting,
    retry_delay,
)
from metacore_operator.resources.status import AddonStatus, KernelCounts, OrganizationCounts, Phase

NOON = datetime.datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
LATER = NOON + datetime.timedelta(minutes=5)


def results(**outcomes: Outcome) -> list[StepResult]:
    kinds = {
        "verify": (ConditionType.VERIFIED,),
        "install": (ConditionType.MIGRATED, ConditionType.INSTALLED),
        "serve": (ConditionType.SERVED,),
        "observe": (ConditionType.DRIFTED,),
    }
    return [StepResult(step, kinds.get(step, ()), outcome) for step, outcome in outcomes.items()]


def summarise(
    steps: list[StepResult],
    previous: AddonStatus | None = None,
    *,
    generation: int = 1,
    now: datetime.datetime = NOON,
    version: str = "1.0.0",
    limit: int = 10,
) -> Summary:
    observed = Observed(
        key="tickets",
        version=version,
        digest=version.replace(".", "") * 8,
        signer="dev",
        organizations=OrganizationCounts(desired=2, installed=2),
        kernels=KernelCounts(live=1, acknowledged=1),
    )
    return conditions.summarise(previous or AddonStatus(), generation, steps, observed, now=now, history_limit=limit)


def state(status: AddonStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


GOOD = results(
    verify=Done(Reason.SIGNATURE_VERIFIED), install=Done(Reason.INSTALLED), serve=Done(Reason.ACKNOWLEDGED),
    observe=Done(Reason.NO_DRIFT),
)  # fmt: skip


def test_everything_done_is_ready_and_neither_reconciling_nor_stalled() -> None:
    status = summarise(GOOD, generation=3).status

    assert state(status) == {
        "Ready": ("True", "Succeeded"),
        "Verified": ("True", "SignatureVerified"),
        "Migrated": ("True", "Installed"),
        "Installed": ("True", "Installed"),
        "Served": ("True", "Acknowledged"),
        "Drifted": ("False", "NoDrift"),
    }
    assert status.phase is Phase.READY
    assert status.observed_generation == 3
    assert {condition.observed_generation for condition in status.conditions} == {3}
    assert "1.0.0 is installed in 2 organizations and served by 1 kernel" in status.conditions[0].message


def test_stalled_is_not_reconciling_and_later_conditions_stay_as_they_were() -> None:
    ready = summarise(GOOD).status

    refused = summarise(
        results(verify=Stalled(Reason.SIGNATURE_REFUSED, "no"), observe=Done(Reason.NO_DRIFT)),
        ready,
        generation=2,
        now=LATER,
    ).status

    assert state(refused)["Ready"] == ("False", "SignatureRefused")
    assert state(refused)["Stalled"] == ("True", "SignatureRefused")
    assert "Reconciling" not in state(refused)
    assert state(refused)["Installed"] == ("True", "Installed")
    served = refused.condition("Served")
    assert served is not None and served.observed_generation == 1
    assert refused.phase is Phase.STALLED


def test_waiting_is_reconciling_and_stops_being_so() -> None:
    waiting = summarise(results(serve=Waiting(Reason.NO_KERNELS, "none"))).status

    assert state(waiting)["Reconciling"] == ("True", "NoKernels")
    assert state(waiting)["Ready"] == ("False", "NoKernels")
    assert waiting.phase is Phase.WAITING
    assert "Reconciling" not in state(summarise(GOOD, waiting).status)


def test_the_first_outcome_that_is_not_done_decides() -> None:
    summary = summarise(results(install=Waiting(Reason.ORGANIZATIONS_MISSING, "a"), serve=Stalled(Reason.FENCED, "b")))

    assert summary.decisive == Waiting(Reason.ORGANIZATIONS_MISSING, "a")


def test_transition_times_move_only_with_the_status() -> None:
    first = summarise(results(serve=Waiting(Reason.NO_KERNELS, "none"))).status
    second = summarise(results(serve=Waiting(Reason.KERNELS_PENDING, "one")), first, now=LATER).status
    third = summarise(GOOD, second, now=LATER).status

    assert second.condition("Ready").last_transition_time == NOON.replace(microsecond=0)  # type: ignore[union-attr]
    assert third.condition("Ready").last_transition_time == LATER.replace(microsecond=0)  # type: ignore[union-attr]


def test_events_tell_transitions_once() -> None:
    first = summarise(GOOD)
    again = summarise(GOOD, first.status, now=LATER)
    broken = summarise(results(verify=Stalled(Reason.SIGNATURE_REFUSED, "flipped")), first.status, now=LATER)
    still = summarise(results(verify=Stalled(Reason.SIGNATURE_REFUSED, "flipped")), broken.status, now=LATER)

    assert {event.type for event in first.events} == {"Normal"}
    assert Reason.SUCCEEDED in {event.reason for event in first.events}
    assert again.events == ()
    assert [(event.type, event.reason, event.message) for event in broken.events] == [
        ("Warning", Reason.SIGNATURE_REFUSED, "flipped")
    ]
    assert still.events == ()


def test_what_a_later_step_told_is_not_told_again_when_an_earlier_one_meets_it() -> None:
    ready = summarise(GOOD).status
    revoked = Stalled(Reason.KEY_REVOKED, "the key was revoked")
    met = summarise([*GOOD[:2], *results(serve=revoked), GOOD[3]], ready)
    assert [event.reason for event in met.events] == [Reason.KEY_REVOKED]
    again = summarise([*results(verify=revoked), GOOD[3]], met.status)
    assert state(again.status)["Verified"] == ("False", "KeyRevoked")
    assert again.events == ()
    # Once it was over it is news again.
    freed = summarise(GOOD, again.status)
    assert Reason.SIGNATURE_VERIFIED in {event.reason for event in freed.events}
    assert [event.reason for event in summarise([*results(verify=revoked), GOOD[3]], freed.status).events] == [
        Reason.KEY_REVOKED
    ]


def test_an_upgrade_is_an_event_though_no_condition_turned() -> None:
    before = summarise(GOOD).status

    events = summarise(GOOD, before, version="1.1.0").events

    assert [(event.type, event.reason) for event in events] == [("Normal", Reason.INSTALLED)]
    assert "1.1.0" in events[0].message and "1.0.0" in events[0].message


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Waiting(Reason.KERNELS_PENDING, "soon"), "Normal"),
        (Waiting(Reason.KERNEL_ERROR, "broken"), "Warning"),
        (Stalled(Reason.KEY_OWNED, "taken"), "Warning"),
    ],
)
def test_only_what_somebody_should_look_at_is_a_warning(outcome: Outcome, kind: str) -> None:
    assert {event.type for event in summarise(results(serve=outcome)).events} == {kind}


def test_history_holds_each_installed_bundle_once_newest_first_within_its_limit() -> None:
    status = AddonStatus()
    for version in ("1.0.0", "1.0.0", "1.1.0", "1.2.0"):
        status = summarise(GOOD, status, version=version, limit=2).status

    assert [entry.version for entry in status.history] == ["1.2.0", "1.1.0"]
    assert summarise(GOOD, status, version="1.2.0", limit=0).status.history == ()


def test_work_on_a_new_generation_shows_before_it_is_done() -> None:
    stalled = summarise(results(verify=Stalled(Reason.SIGNATURE_REFUSED, "no"))).status

    status = conditions.began(stalled, 2, now=LATER)

    assert state(status)["Reconciling"] == ("True", "Progressing")
    assert "Stalled" not in state(status)
    assert status.observed_generation == 1
    assert status.phase is Phase.PROGRESSING


def test_suspending_leaves_the_rest_as_it_is_and_is_told_once() -> None:
    ready = conditions.began(summarise(GOOD).status, 2, now=LATER)

    first = conditions.suspended(ready, 2, "the spec", now=LATER)
    second = conditions.suspended(first.status, 2, "the spec", now=LATER)

    assert first.status.phase is Phase.SUSPENDED
    assert state(first.status)["Ready"] == ("True", "Succeeded")
    assert "Reconciling" not in state(first.status)
    assert [event.reason for event in first.events] == [Reason.SUSPENDED]
    assert second.events == ()


def test_retries_grow_to_five_minutes() -> None:
    assert [retry_delay(failures) for failures in (1, 2, 3, 9, 10, 5000)] == [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]
