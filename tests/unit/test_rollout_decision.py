"""Every way that a change of the mode can go, and every guard before it."""

from __future__ import annotations

import datetime

import pytest
from tests.rollouts import BEGAN, FAILED, Rolled, pod

from metacore.capabilities.access import Mode
from metacore_operator.rollout.decide import Decision, Policy
from metacore_operator.rollout.words import Phase, RolloutReason


def said(decision: Decision) -> tuple[Phase, RolloutReason]:
    return decision.phase, decision.reason


def enforcing(**fields: object) -> Rolled:
    """Where everything enforces, as wished."""
    world = Rolled(entry="1", **fields)  # type: ignore[arg-type]
    world.step()
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)
    return world


# The ordinary course


def test_without_a_wish_nothing_is_stamped() -> None:
    world = Rolled()
    decision = world.step()
    assert said(decision) == (Phase.SETTLED, RolloutReason.WISH_MET)
    assert (world.stamp, decision.message) == ("", "mode shadow: 3 shadow")


def test_a_wish_rolls_and_is_met_when_every_pod_says_so() -> None:
    world = Rolled(entry="1")
    assert said(world.step()) == (Phase.ROLLING, RolloutReason.ROLLING_OUT)
    assert world.stamp == "enforce"
    world.make()
    assert world.step().message == "to enforce: 1 of 3 pods are new, 3 of 4 available; 3 shadow, 1 starting"
    world.become_ready()
    assert world.step().phase is Phase.ROLLING
    decision = world.finish()
    assert said(decision) == (Phase.SETTLED, RolloutReason.WISH_MET)
    assert decision.message == "mode enforce: 3 enforce"
    assert not decision.record.under_way


def test_back_to_shadow_is_a_rollout_like_any_other() -> None:
    world = enforcing()
    world.entry = "no"
    assert said(world.step()) == (Phase.ROLLING, RolloutReason.ROLLING_OUT)
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)
    assert world.stamp == "shadow"


def test_an_entry_that_is_taken_away_means_shadow() -> None:
    world = enforcing()
    world.entry = None
    world.step()
    world.finish()
    assert world.stamp == "shadow"


def test_a_pod_that_is_ready_but_does_not_say_its_mode_is_waited_for() -> None:
    world = Rolled(entry="1", replicas=1)
    world.step()
    world.pods = [(world.template, pod("new", "enforce", observed=Mode.SHADOW))]
    assert world.step().phase is Phase.ROLLING
    world.pods = [(world.template, pod("new", "enforce"))]
    assert world.step().phase is Phase.SETTLED


def test_an_old_pod_that_still_serves_is_waited_for() -> None:
    world = Rolled(entry="1", replicas=1)
    world.step()
    world.make()
    world.become_ready()
    ending = pod("old", "")
    sight = world.sight
    assert sight.complete(Mode.ENFORCE)
    world.pods.append((0, ending))
    assert not world.sight.complete(Mode.ENFORCE)


def test_no_pods_wanted_is_done_at_once() -> None:
    world = Rolled(entry="1", replicas=0, policy=Policy(canary=60))
    world.step()
    assert said(world.step()) == (Phase.SETTLED, RolloutReason.WISH_MET)


# What nobody can want


def test_an_unknown_word_is_refused_by_name_and_the_mode_stays() -> None:
    world = enforcing()
    world.entry = "perhaps"
    decision = world.step()
    assert said(decision) == (Phase.REFUSED, RolloutReason.WISH_UNKNOWN)
    assert "'perhaps'" in decision.message
    assert decision.message.endswith("the mode stays enforce")
    assert world.stamp == "enforce"


def test_a_config_map_that_is_gone_changes_nothing() -> None:
    world = enforcing()
    world.gone = True
    assert said(world.step()) == (Phase.REFUSED, RolloutReason.CONFIG_MAP_MISSING)
    assert world.stamp == "enforce"
    world.gone = False
    assert world.step().phase is Phase.SETTLED


@pytest.mark.parametrize("change", [{"gone": True}, {"entry": "perhaps"}])
def test_what_is_under_way_goes_on_when_the_wish_is_lost(change: dict[str, object]) -> None:
    world = Rolled(entry="1")
    world.step()
    for name, value in change.items():
        setattr(world, name, value)
    assert world.step().phase is Phase.ROLLING
    assert world.finish().phase is Phase.REFUSED
    assert (world.stamp, world.sight.words) == ("enforce", "3 enforce")


# Going back


def test_pods_that_fail_lead_back_to_exactly_what_was_there() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.fail()
    decision = world.step()
    assert said(decision) == (Phase.RETURNING, RolloutReason.PODS_FAILING)
    assert decision.message == f"returned from enforce to shadow: 2-0: {FAILED}"
    assert world.stamp == ""
    world.template = 1
    world.pods = [entry for entry in world.pods if entry[0] == 1]
    decision = world.step()
    assert said(decision) == (Phase.REFUSED, RolloutReason.PODS_FAILING)
    assert FAILED in decision.message


def returned() -> Rolled:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.fail()
    world.step()
    world.pods = []
    assert world.finish().phase is Phase.REFUSED
    return world


def test_what_was_returned_from_is_not_tried_again_by_itself() -> None:
    world = returned()
    for _ in range(3):
        world.later(3_600)
        assert world.step().phase is Phase.REFUSED
    assert world.stamp == ""


def test_another_wish_is_tried_again_and_so_is_the_same_after_it() -> None:
    world = returned()
    world.entry = "0"
    assert said(world.step()) == (Phase.SETTLED, RolloutReason.WISH_MET)
    world.entry = "1"
    assert world.step().phase is Phase.ROLLING


def test_a_request_is_heard_once() -> None:
    world = returned()
    world.asked = "now"
    assert world.step().phase is Phase.ROLLING
    world.make()
    world.fail()
    assert world.step().phase is Phase.RETURNING
    world.pods = []
    assert world.finish().phase is Phase.REFUSED
    world.asked = ""
    assert world.step().phase is Phase.REFUSED
    world.asked = "once more"
    assert world.step().phase is Phase.ROLLING


def test_a_config_map_that_is_made_again_is_no_other_wish() -> None:
    world = returned()
    world.gone = True
    assert world.step().reason is RolloutReason.CONFIG_MAP_MISSING
    world.gone = False
    assert said(world.step()) == (Phase.REFUSED, RolloutReason.PODS_FAILING)


def test_another_word_for_what_is_under_way_is_what_is_refused_later() -> None:
    world = Rolled(entry="1")
    world.step()
    world.entry = "true"
    world.step()
    world.make()
    world.fail()
    world.step()
    world.pods = []
    assert world.finish().phase is Phase.REFUSED
    world.later(60)
    assert world.step().phase is Phase.REFUSED


def test_a_rollout_to_shadow_that_fails_leads_back_to_enforce() -> None:
    world = enforcing()
    world.entry = "0"
    world.step()
    world.make()
    world.fail()
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.PODS_FAILING)
    assert world.stamp == "enforce"


def test_a_deadline_of_this_rollout_leads_back_and_one_before_it_does_not() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.exceeded_at = BEGAN - datetime.timedelta(seconds=1)
    assert world.step().phase is Phase.ROLLING
    world.exceeded_at = BEGAN + datetime.timedelta(seconds=600)
    decision = world.step()
    assert said(decision) == (Phase.RETURNING, RolloutReason.DEADLINE_EXCEEDED)
    assert "no progress within 600 s: 1 of 3 pods are new" in decision.message


def test_a_deadline_is_not_believed_before_the_controller_saw_the_template() -> None:
    world = Rolled(entry="1")
    world.step()
    world.seen = False
    world.exceeded_at = BEGAN + datetime.timedelta(seconds=1)
    assert world.step().phase is Phase.ROLLING


def test_kernels_that_never_say_the_mode_lead_back_but_not_while_nobody_can_be_heard() -> None:
    world = Rolled(entry="1", replicas=1)
    world.step()
    world.pods = [(world.template, pod("new", "enforce", observed=Mode.SHADOW))]
    world.later(601)
    world.heard = False
    assert world.step().phase is Phase.ROLLING
    world.heard = True
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.MODE_NOT_OBSERVED)


def test_pods_that_fail_after_the_return_too_are_told_and_nothing_else_is_tried() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.fail()
    world.step()
    world.make()
    world.fail()
    decision = world.step()
    assert decision.phase is Phase.RETURNING
    assert "in shadow pods fail, too" in decision.message
    world.later(3_600)
    assert world.step().phase is Phase.RETURNING
    assert world.stamp == ""


def test_pods_that_fail_long_after_are_not_the_modes_fault() -> None:
    world = enforcing()
    world.fail()
    assert world.step().phase is Phase.SETTLED


def test_a_wish_that_is_withdrawn_in_the_middle_leads_back() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.entry = "0"
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.ROLLING_OUT)
    assert world.stamp == ""
    world.pods = []
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


def test_enforcement_wished_for_on_the_way_to_shadow_waits_for_its_end() -> None:
    world = enforcing()
    world.entry = "0"
    world.step()
    world.make()
    world.entry = "1"
    assert world.step().phase is Phase.ROLLING
    assert world.stamp == "shadow"
    world.finish()
    assert (world.stamp, world.sight.words) == ("enforce", "3 enforce")


def test_a_wish_for_shadow_during_a_return_is_met_by_it() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.fail()
    world.step()
    world.entry = "0"
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.ROLLING_OUT)
    world.pods = []
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


# Others at the same Deployment


def test_an_upgrade_in_the_middle_is_rolled_out_with_the_mode() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.become_ready()
    world.upgrade()
    assert world.step().phase is Phase.ROLLING
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


def test_enforcement_waits_for_another_rollout_and_shadow_does_not() -> None:
    world = Rolled(entry="1")
    world.upgrade()
    world.make()
    assert said(world.step()) == (Phase.WAITING, RolloutReason.DEPLOYMENT_BUSY)
    world.finish()
    assert world.stamp == "enforce"
    world = enforcing()
    world.upgrade()
    world.make()
    world.entry = "0"
    assert world.step().phase is Phase.ROLLING


def test_enforcement_waits_while_somebody_holds_the_deployment() -> None:
    world = Rolled(entry="1", paused=True)
    assert said(world.step()) == (Phase.WAITING, RolloutReason.DEPLOYMENT_PAUSED)
    world.paused = False
    assert world.step().phase is Phase.ROLLING


def test_a_template_that_somebody_changed_back_is_stamped_again() -> None:
    world = Rolled(entry="1")
    world.step()
    world.stamp = "shadow"
    world.step()
    assert world.stamp == "enforce"
    world = enforcing()
    world.stamp = ""
    assert world.step().phase is Phase.ROLLING
    assert world.stamp == "enforce"


def test_a_stamp_that_somebody_puts_where_none_was_is_written_over() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.fail()
    world.step()
    assert world.stamp == ""
    world.stamp = "enforce"
    world.step()
    assert world.stamp == "shadow"


def test_a_record_that_was_lost_in_the_middle_is_made_anew_from_the_pods() -> None:
    world = Rolled(entry="1")
    world.step()
    world.make()
    world.become_ready()
    world.record = None
    assert world.step().phase is Phase.ROLLING
    world.make()
    world.fail()
    assert world.step().phase is Phase.RETURNING
    assert world.stamp == "shadow"


# Nothing serves


def test_where_nothing_serves_enforcement_begins_at_once_and_has_nothing_to_return_to() -> None:
    world = Rolled(entry="1", policy=Policy(canary=60))
    world.pods = []
    world.make(3)
    assert world.step().phase is Phase.ROLLING
    world.make()
    world.fail()
    decision = world.step()
    assert decision.phase is Phase.ROLLING
    assert FAILED in decision.message
    world.pods = []
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


# The guard


def guarded(violations: int | None, **fields: object) -> Rolled:
    return Rolled(entry="1", policy=Policy(most_violations=5), violations=violations, **fields)  # type: ignore[arg-type]


def test_too_many_violations_refuse_enforcement_until_they_are_past() -> None:
    world = guarded(6)
    decision = world.step()
    assert said(decision) == (Phase.REFUSED, RolloutReason.TOO_MANY_VIOLATIONS)
    assert "6 violations" in decision.message
    assert "at most 5" in decision.message
    assert world.stamp == ""
    world.violations = 5
    assert world.step().phase is Phase.ROLLING


def test_violations_that_cannot_be_counted_are_waited_for() -> None:
    world = guarded(None)
    assert said(world.step()) == (Phase.WAITING, RolloutReason.VIOLATIONS_UNKNOWN)


def test_too_many_violations_in_the_middle_lead_back_and_are_not_tried_again() -> None:
    world = guarded(0)
    world.step()
    world.make()
    world.violations = None
    assert world.step().phase is Phase.ROLLING
    world.violations = 6
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.TOO_MANY_VIOLATIONS)
    world.pods = []
    world.violations = 0
    assert said(world.finish()) == (Phase.REFUSED, RolloutReason.TOO_MANY_VIOLATIONS)


def test_no_number_of_violations_stands_before_shadow() -> None:
    world = enforcing(policy=Policy(most_violations=5), violations=0)
    world.violations, world.entry = 1_000, "0"
    assert world.step().phase is Phase.ROLLING
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


def test_enforcement_that_was_reached_stays_however_many_violations_there_are() -> None:
    world = enforcing(policy=Policy(most_violations=5), violations=0)
    world.violations = 1_000
    assert world.step().phase is Phase.SETTLED


# The canary


def canary(**fields: object) -> Rolled:
    """At the point where the first pod serves and is being watched."""
    world = Rolled(entry="1", policy=Policy(canary=60), **fields)  # type: ignore[arg-type]
    decision = world.step()
    assert said(decision) == (Phase.CANARY, RolloutReason.CANARY_RUNNING)
    # A paused Deployment would make no pod.
    assert not world.paused
    world.make()
    assert world.step().phase is Phase.CANARY
    assert world.paused
    world.become_ready()
    decision = world.step()
    assert decision.message == "2-0 in enforce, watched until 09:01:00 UTC"
    return world


def test_the_first_pod_is_watched_for_its_time_and_then_the_others_follow() -> None:
    world = canary()
    world.later(59)
    assert world.step().phase is Phase.CANARY
    assert world.paused
    world.later(1)
    assert said(world.step()) == (Phase.ROLLING, RolloutReason.ROLLING_OUT)
    assert not world.paused
    assert said(world.finish()) == (Phase.SETTLED, RolloutReason.WISH_MET)


def test_a_canary_that_fails_leads_back() -> None:
    world = canary()
    world.fail()
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.PODS_FAILING)
    assert (world.stamp, world.paused) == ("", False)


def test_a_canary_that_never_serves_leads_back_although_a_paused_deployment_has_no_deadline() -> None:
    world = Rolled(entry="1", policy=Policy(canary=60))
    world.step()
    world.make()
    world.step()
    assert world.paused
    world.later(600)
    assert world.step().phase is Phase.CANARY
    world.later(1)
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.DEADLINE_EXCEEDED)


def test_the_guard_looks_at_the_canary_too() -> None:
    world = canary()
    world.policy = Policy(canary=60, most_violations=5)
    world.violations = 6
    assert said(world.step()) == (Phase.RETURNING, RolloutReason.TOO_MANY_VIOLATIONS)


def test_a_canary_that_goes_away_is_watched_anew_when_it_is_back() -> None:
    world = canary()
    world.later(50)
    world.pods = [entry for entry in world.pods if entry[0] == 1]
    world.make()
    world.step()
    world.later(50)
    world.become_ready()
    assert world.step().phase is Phase.CANARY
    world.later(59)
    assert world.step().phase is Phase.CANARY
    world.later(1)
    assert world.step().phase is Phase.ROLLING


def test_an_upgrade_during_a_canary_gets_a_canary_of_its_own() -> None:
    world = canary()
    world.upgrade()
    assert world.step().phase is Phase.CANARY
    # Otherwise the controller would make nothing of the new template.
    assert not world.paused
    world.make()
    world.step()
    assert world.paused
    world.later(120)
    # The first canary still serves, but the second does not.
    assert world.step().phase is Phase.CANARY
    world.become_ready()
    world.step()
    world.later(60)
    assert world.step().phase is Phase.ROLLING


def test_a_controller_that_has_not_looked_yet_leaves_the_pause_as_it_is() -> None:
    world = canary()
    world.seen = False
    world.step()
    assert world.paused


def test_a_wish_that_is_withdrawn_during_a_canary_ends_the_pause() -> None:
    world = canary()
    world.entry = ""
    assert world.step().phase is Phase.RETURNING
    assert (world.stamp, world.paused) == ("", False)


def test_whoever_takes_over_late_finds_nothing_left_to_hold() -> None:
    world = Rolled(entry="1", policy=Policy(canary=60))
    world.step()
    world.make(3)
    assert world.step().phase is Phase.ROLLING
    assert not world.paused


def test_one_pod_alone_has_no_canary_and_shadow_has_none() -> None:
    world = Rolled(entry="1", replicas=1, policy=Policy(canary=60))
    assert world.step().phase is Phase.ROLLING
    world = enforcing(policy=Policy(canary=0))
    world.policy, world.entry = Policy(canary=60), "0"
    assert world.step().phase is Phase.ROLLING
