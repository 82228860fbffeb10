"""Who gets the next slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metacore.wasm.fairness import SLOW_SECONDS, FairQueue


def queue(slots: int = 4, per_addon: int = 100, total: int = 1_000) -> FairQueue[str]:
    return FairQueue(slots, per_addon=per_addon, total=total)


def test_addons_take_turns_however_many_calls_one_of_them_has() -> None:
    fair = queue(slots=1)
    for number in range(3):
        fair.put("busy", f"busy{number}")
    fair.put("other", "other")
    taken = []
    for now in range(4):
        job = fair.take(now * 0.01)
        assert job is not None
        taken.append(job)
        fair.done(job.rstrip("0123456789"), now * 0.01, now * 0.01 + 0.001)
    assert taken == ["busy0", "other", "busy1", "busy2"]


def test_the_addon_with_the_fewest_running_calls_goes_first() -> None:
    fair = queue()
    fair.put("a", "a1")
    fair.put("a", "a2")
    assert fair.take(0) == "a1"
    fair.put("b", "b1")
    assert fair.take(0) == "b1"
    assert fair.take(0) == "a2"


def test_an_addon_that_runs_never_takes_the_last_slot() -> None:
    fair = queue(slots=4)
    for number in range(9):
        fair.put("spinning", f"s{number}")
    assert [fair.take(0) for _ in range(4)] == ["s0", "s1", "s2", None]
    fair.put("quick", "q")
    assert fair.take(0) == "q"


def test_a_single_slot_is_used_by_a_lone_addon() -> None:
    fair = queue(slots=1)
    fair.put("a", "a1")
    assert fair.take(0) == "a1"


def test_slow_addons_share_half_of_the_slots() -> None:
    fair = queue(slots=4)
    for key in ("x", "y", "z"):
        fair.put(key, f"{key}0")
        assert fair.take(0) == f"{key}0"
        fair.done(key, 0, 5)
    for key in ("x", "y", "z"):
        fair.put(key, f"{key}1")
    assert {fair.take(10), fair.take(10)} == {"x1", "y1"}
    assert fair.take(10) is None
    fair.put("quick", "q0")
    fair.put("quick", "q1")
    assert (fair.take(10), fair.take(10)) == ("q0", None)  # The last slot is for one that has nothing running.
    fair.put("other", "o0")
    assert fair.take(10) == "o0"


def test_a_call_that_runs_for_long_makes_its_addon_slow_before_it_ends() -> None:
    fair = queue(slots=4)
    for key in ("x", "y"):
        fair.put(key, f"{key}0")
        fair.take(0)
        fair.put(key, f"{key}1")
    assert fair.take(SLOW_SECONDS * 2) is None
    assert fair.take(SLOW_SECONDS / 2) == "x1"


def test_an_addon_is_forgiven_after_quick_calls() -> None:
    fair = queue(slots=2)
    fair.put("x", "slow")
    fair.take(0)
    fair.done("x", 0, 60)
    for _ in range(8):
        fair.put("x", "quick")
        assert fair.take(100) == "quick"
        fair.done("x", 100, 100.001)
    fair.put("x", "x")
    fair.put("y", "y")
    fair.put("y", "y2")
    assert {fair.take(200), fair.take(200)} == {"x", "y"}


def test_both_bounds_of_waiting_calls_hold() -> None:
    fair = queue(per_addon=2, total=3)
    assert [fair.put("a", "1"), fair.put("a", "2"), fair.put("a", "3")] == [True, True, False]
    assert [fair.put("b", "4"), fair.put("c", "5")] == [True, False]


def test_a_withdrawn_call_is_not_taken() -> None:
    fair = queue()
    fair.put("a", "1")
    fair.put("a", "2")
    assert fair.withdraw("a", "1")
    assert not fair.withdraw("a", "1")
    assert not fair.withdraw("nobody", "1")
    assert (fair.take(0), fair.take(0)) == ("2", None)
    assert not fair.withdraw("a", "2")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80), st.integers(1, 5))
def test_nothing_is_lost_and_no_slot_is_given_twice(steps: list[tuple[str, bool]], slots: int) -> None:
    fair = queue(slots=slots)
    running: list[tuple[str, float]] = []
    put: list[str] = []
    taken: list[str] = []
    for now, (key, add) in enumerate(steps):
        if add:
            fair.put(key, f"{key}{now}")
            put.append(f"{key}{now}")
        elif (job := fair.take(float(now))) is not None:
            taken.append(job)
            running.append((job[0], float(now)))
        elif running:
            fair.done(*running.pop(0), float(now))
        assert len(running) <= slots
    while put and len(taken) < len(put):
        if (job := fair.take(1e6)) is not None:
            taken.append(job)
            running.append((job[0], 1e6))
        else:
            assert running, "calls wait although every slot is free"
            fair.done(*running.pop(0), 1e6)
    assert sorted(taken) == sorted(put)
    assert len(fair) == 0
