"""Lanes: who goes out with whom, and what happens to the others when one fails, is slow or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from metacore.dynamic.coalesce import Coalescer


class Server:
    """Stands for the database: holds every statement until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.arrived = asyncio.Condition()

    async def send(self, items: Sequence[int]) -> Sequence[int | Exception]:
        gate = asyncio.Event()
        async with self.arrived:
            self.batches.append(list(items))
            self.gates.append(gate)
            self.arrived.notify_all()
        await gate.wait()
        return [ValueError(str(item)) if item < 0 else item * 10 for item in items]

    async def wait_for(self, statements: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.batches) >= statements)


@pytest.fixture
def server() -> Server:
    return Server()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_idle_lane_sends_at_once(server: Server) -> None:
    task = asyncio.create_task(Coalescer().submit("lane", 1, server.send))
    await server.wait_for(1)
    server.gates[0].set()
    assert await task == 10
    assert server.batches == [[1]]


async def test_who_waits_goes_out_together(server: Server) -> None:
    lanes = Coalescer(slow_seconds=60)
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in range(5)]
    await server.wait_for(1)
    await settle()
    server.gates[0].set()
    await server.wait_for(2)
    server.gates[1].set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40]
    assert server.batches == [[0], [1, 2, 3, 4]]


async def test_a_batch_is_closed_before_it_is_sent(server: Server) -> None:
    """What arrives while a statement runs is never answered by that statement."""
    lanes = Coalescer(slow_seconds=60)
    first = asyncio.create_task(lanes.share("list", lambda: one(server)))
    await server.wait_for(1)
    late = [asyncio.create_task(lanes.share("list", lambda: one(server))) for _ in range(3)]
    await settle()
    server.gates[0].set()
    await first
    await server.wait_for(2)
    assert not any(task.done() for task in late)
    server.gates[1].set()
    await asyncio.gather(*late)
    assert len(server.batches) == 2


async def one(server: Server) -> int | Exception:
    return (await server.send([1]))[0]


async def test_lanes_do_not_wait_for_each_other(server: Server) -> None:
    lanes = Coalescer(slow_seconds=60)
    tasks = [asyncio.create_task(lanes.submit(key, 1, server.send)) for key in ("a", "b")]
    await server.wait_for(2)
    for gate in server.gates:
        gate.set()
    await asyncio.gather(*tasks)


async def test_each_caller_gets_its_own_error(server: Server) -> None:
    lanes = Coalescer(slow_seconds=60)
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in (1, -2, 3)]
    await server.wait_for(1)
    await settle()
    server.gates[0].set()
    await server.wait_for(2)
    server.gates[1].set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 10
    assert isinstance(outcomes[1], ValueError)
    assert outcomes[2] == 30


async def test_what_the_statement_raises_is_everybodys() -> None:
    lanes = Coalescer(slow_seconds=60)
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        await gate.wait()
        raise RuntimeError("broken")

    tasks = [asyncio.create_task(lanes.submit("lane", item, send)) for item in range(3)]
    await settle()
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["broken"] * 3


async def test_a_statement_with_too_few_answers_fails_instead_of_hanging() -> None:
    lanes = Coalescer(slow_seconds=60)
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        await gate.wait()
        return [1]

    tasks = [asyncio.create_task(lanes.submit("lane", item, send)) for item in range(3)]
    await settle()
    gate.set()
    assert await tasks[0] == 1
    for task in tasks[1:]:
        with pytest.raises(RuntimeError):
            await task


@pytest.mark.parametrize("leaving", [0, 2], ids=["the one that sent", "one that waits"])
async def test_a_caller_that_goes_away_takes_nobody_along(server: Server, leaving: int) -> None:
    lanes = Coalescer(slow_seconds=60)
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in range(4)]
    await server.wait_for(1)
    await settle()
    tasks[leaving].cancel()
    await settle()
    server.gates[0].set()
    await server.wait_for(2)
    server.gates[1].set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(leaving), asyncio.CancelledError)
    assert outcomes == [item * 10 for item in range(4) if item != leaving]
    assert server.batches[1] == [item for item in (1, 2, 3) if item != leaving]


async def test_a_caller_that_leaves_a_running_batch_takes_nobody_along(server: Server) -> None:
    lanes = Coalescer(slow_seconds=60)
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in range(4)]
    await server.wait_for(1)
    await settle()
    server.gates[0].set()
    await server.wait_for(2)
    tasks[2].cancel()
    await settle()
    server.gates[1].set()
    assert [await tasks[0], await tasks[1], await tasks[3]] == [0, 10, 30]
    assert tasks[2].cancelled()


async def test_batches_are_bounded_by_items_and_bytes(server: Server) -> None:
    lanes = Coalescer(max_items=3, max_weight=100, slow_seconds=60)
    weights = [1, 90, 20, 500, 1, 1, 1, 1]
    tasks = [
        asyncio.create_task(lanes.submit("lane", item, server.send, weight=weight))
        for item, weight in enumerate(weights)
    ]
    await server.wait_for(1)
    await settle()
    for number in range(6):
        await server.wait_for(number + 1)
        server.gates[number].set()
        await settle()
        if all(task.done() for task in tasks):
            break
    await asyncio.gather(*tasks)
    assert server.batches == [[0], [1], [2], [3], [4, 5, 6], [7]]


async def test_a_slow_statement_does_not_hold_its_lane_alone(server: Server) -> None:
    lanes = Coalescer(slow_seconds=0)
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in range(3)]
    await server.wait_for(2)
    assert server.batches == [[0], [1, 2]]
    third = asyncio.create_task(lanes.submit("lane", 3, server.send))
    await settle()
    assert len(server.batches) == 2, "two at once, never three"
    for gate in server.gates:
        gate.set()
    await server.wait_for(3)
    server.gates[2].set()
    assert await asyncio.gather(*tasks, third) == [0, 10, 20, 30]


async def test_a_lane_that_is_done_leaves_nothing_behind(server: Server) -> None:
    lanes = Coalescer()
    tasks = [asyncio.create_task(lanes.submit("lane", item, server.send)) for item in range(3)]
    await server.wait_for(1)
    tasks[1].cancel()
    tasks[2].cancel()
    await settle()
    server.gates[0].set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()
    assert not lanes.lanes
