"""The work queue: each name once, never two at a time on one name."""

from __future__ import annotations

import asyncio

from metacore_operator.queue import WorkQueue


async def taken(queue: WorkQueue) -> str:
    async with queue.take() as name:
        return name


async def test_a_name_wanted_twice_comes_once() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    queue.add("b", delay=0)

    assert {await taken(queue), await taken(queue)} == {"a", "b"}
    waiting = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_an_earlier_wish_stays_and_a_later_one_gives_way() -> None:
    queue = WorkQueue()
    queue.add("a", delay=3600)
    queue.add("a")

    assert await taken(queue) == "a"

    queue.add("a")
    queue.add("a", delay=3600)
    assert await taken(queue) == "a"


async def test_a_name_is_not_given_out_twice_at_a_time_but_again_afterwards() -> None:
    queue = WorkQueue()
    queue.add("a")
    async with queue.take() as name:
        queue.add(name)
        second = asyncio.create_task(taken(queue))
        await asyncio.sleep(0)
        assert not second.done()
    assert await second == "a"


async def test_what_becomes_due_wakes_a_waiting_worker() -> None:
    queue = WorkQueue()
    queue.add("late", delay=3600)
    waiting = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)

    queue.add("soon", delay=0.001)

    assert await waiting == "soon"


async def test_failures_count_in_a_row() -> None:
    queue = WorkQueue()

    assert [queue.failed("a"), queue.failed("a"), queue.failed("b")] == [1, 2, 1]
    queue.succeeded("a")
    assert queue.failed("a") == 1
