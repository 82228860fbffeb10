"""What is remembered of sources has an end."""

from __future__ import annotations

from tests.unit.test_operator_reconcile import addon_of

from metacore_operator.resources.addon import Addon
from metacore_operator.sources.memory import EACH_BYTES, LARGEST_BYTES, Memory


def addon(uid: str) -> Addon:
    made = addon_of()
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": uid})})


def test_the_answer_to_the_last_question_is_known() -> None:
    memory: Memory[int] = Memory()
    memory.keep(addon("a"), "one", 1, b"")
    assert memory.recall(addon("a"), "one") == 1
    assert memory.recall(addon("a"), "two") is None
    assert memory.recall(addon("b"), "one") is None
    memory.keep(addon("a"), "two", 2, b"")
    assert (memory.recall(addon("a"), "one"), memory.recall(addon("a"), "two")) == (None, 2)


def test_the_least_used_go_and_large_ones_are_not_kept() -> None:
    memory: Memory[int] = Memory(3 * (EACH_BYTES + 1000))
    for number, uid in enumerate("abc"):
        memory.keep(addon(uid), "", number, b"x" * 1000)
    assert memory.recall(addon("a"), "") == 0
    memory.keep(addon("d"), "", 3, b"x" * 1000)
    assert [memory.recall(addon(uid), "") for uid in "abcd"] == [0, None, 2, 3]
    for _ in range(10):
        memory.keep(addon("d"), "", 4, b"x" * 1000)
    assert [memory.recall(addon(uid), "") for uid in "acd"] == [0, 2, 4], "nothing is counted twice"
    memory.keep(addon("d"), "", 5, b"x" * LARGEST_BYTES)
    assert memory.recall(addon("d"), "") is None, "and what was known before is old"
    memory.keep(addon(""), "", 6, None)
    assert memory.recall(addon(""), "") is None
