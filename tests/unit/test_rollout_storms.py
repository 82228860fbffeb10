"""Whatever happens in whatever order: the mode never swings to and fro, and in the end it rests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rollouts import Rolled

from metacore.capabilities.access import Mode
from metacore_operator.rollout.decide import Policy
from metacore_operator.rollout.objects import LONGEST_EVENT
from metacore_operator.rollout.record import write_record
from metacore_operator.rollout.words import Phase

WISHES = ("wish 1", "wish true", "wish 1", "wish 0", "wish perhaps", "take away", "bring back", "ask")
HAPPENINGS = ("make", "ready", "fail", "upgrade", "minute", "exceed", "unheard", "violate", "calm", "nothing")
OFTEN = ("make", "ready", "fail") * 6
"""The controller and the pods do most of what happens."""
WEATHER = st.lists(st.sampled_from(HAPPENINGS + OFTEN), min_size=6, max_size=16)
MOST_ANNOTATION = 2_048


def happen(world: Rolled, what: str, number: int) -> None:
    match what:
        case "take away" | "bring back":
            world.gone = what == "take away"
        case "ask":
            world.asked = str(number)
        case "make":
            healthy = [item for _, item in world.pods if not item.problem]
            if not world.paused and world.sight.updated < world.replicas and len(healthy) <= world.replicas:
                world.make()
        case "ready":
            world.become_ready()
        case "fail":
            world.fail()
        case "upgrade":
            world.upgrade()
        case "minute":
            world.later(60)
        case "exceed":
            world.exceeded_at = world.now
        case "unheard":
            world.heard = not world.heard
        case "violate":
            world.violations = 9
        case "calm":
            world.violations = 0
        case _:
            if what.startswith("wish "):
                world.entry = what.removeprefix("wish ")


def rest(world: Rolled) -> Phase:
    """Let everything go well for a while."""
    world.heard, world.violations, world.exceeded_at = True, 0, None
    phase = world.step().phase
    for _ in range(12):
        world.later(60)
        if not world.paused and world.sight.updated < world.replicas:
            world.make()
        world.become_ready()
        phase = world.step().phase
    return phase


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(WISHES), WEATHER), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([Policy(), Policy(canary=60), Policy(canary=60, most_violations=5), Policy(most_violations=5)]),
)
def test_the_mode_swings_at_most_there_and_back_for_one_wish_and_rests_in_the_end(
    storms: list[tuple[str, list[str]]], replicas: int, policy: Policy
) -> None:
    world = Rolled(replicas=replicas, policy=policy, entry="0", violations=0)
    swings = 0
    happenings = [what for wish, weather in storms for what in (wish, *weather)]
    for number, what in enumerate(happenings):
        before = world.sight.mode
        happen(world, what, number)
        decision = world.step()
        swings = (0 if what in WISHES else swings) + (world.sight.mode is not before)
        assert swings <= 2
        assert not world.paused or decision.phase is Phase.CANARY
        assert 0 < len(decision.message) <= LONGEST_EVENT
        assert len(write_record(decision.record)) < MOST_ANNOTATION
    assert rest(world) in (Phase.SETTLED, Phase.REFUSED)
    assert not world.paused
    # Nothing is left between the modes, and who asks gets back to shadow.
    assert world.sight.complete(world.sight.mode)
    world.gone, world.entry, world.asked = False, "0", "at last"
    assert rest(world) is Phase.SETTLED
    assert world.sight.mode is Mode.SHADOW
