"""One operator works at a time, and it stops before another can begin."""

from __future__ import annotations

import pytest
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import Unavailable
from metacore_operator import leader
from metacore_operator.api_server import Document
from metacore_operator.leader import Leader, LeaseLost

PATH = "/apis/coordination.k8s.io/v1/namespaces/metacore/leases/operator"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def candidate(api: ObjectsInMemory, identity: str, clock: Clock) -> Leader:
    return Leader(api, "metacore", "operator", identity, clock=clock)


def holder(api: ObjectsInMemory) -> str:
    return str(api.objects[PATH]["spec"]["holderIdentity"])


async def test_the_first_makes_the_lease_and_others_wait() -> None:
    api, clock = ObjectsInMemory(), Clock()
    first, second = candidate(api, "a", clock), candidate(api, "b", clock)
    assert await first.attempt()
    assert not await second.attempt()
    assert await first.attempt()
    assert holder(api) == "a"


async def test_a_lease_that_is_renewed_is_never_taken_however_long_it_lasts() -> None:
    api, clock = ObjectsInMemory(), Clock()
    first, second = candidate(api, "a", clock), candidate(api, "b", clock)
    for _ in range(20):
        assert await first.attempt()
        assert not await second.attempt()
        clock.now += leader.LEASE_SECONDS - 1


async def test_a_lease_that_nobody_renews_is_taken_after_its_time_by_the_clock_of_who_waits() -> None:
    api, clock = ObjectsInMemory(), Clock()
    first, second = candidate(api, "a", clock), candidate(api, "b", clock)
    await first.attempt()
    assert not await second.attempt()
    clock.now += leader.LEASE_SECONDS - 0.1
    assert not await second.attempt()
    clock.now += 0.1
    assert await second.attempt()
    assert holder(api) == "b"
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 1
    assert not await first.attempt()


async def test_a_lease_that_was_given_up_is_taken_at_once() -> None:
    api, clock = ObjectsInMemory(), Clock()
    first, second = candidate(api, "a", clock), candidate(api, "b", clock)
    await first.attempt()
    assert not await second.attempt()
    await first.release()
    assert await second.attempt()


async def test_giving_up_leaves_the_lease_of_another_alone() -> None:
    api, clock = ObjectsInMemory(), Clock()
    await candidate(api, "b", clock).attempt()
    await candidate(api, "a", clock).release()
    assert holder(api) == "b"


async def test_of_two_that_take_it_at_once_one_wins() -> None:
    api, clock = ObjectsInMemory(), Clock()
    await candidate(api, "a", clock).attempt()
    stale = await api.get(PATH)
    await candidate(api, "a", clock).attempt()

    async def old(path: str) -> Document:
        return stale

    api.get = old  # type: ignore[method-assign]
    assert not await candidate(api, "a", clock).attempt()


async def test_who_finds_another_holding_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "TRY_SECONDS", 0)
    api, clock = ObjectsInMemory(), Clock()
    first = candidate(api, "a", clock)
    await first.attempt()
    taken = await api.get(PATH)
    api.put(PATH, taken | {"spec": taken["spec"] | {"holderIdentity": "b"}})
    with pytest.raises(LeaseLost, match="held by another"):
        await first.hold()


async def test_who_cannot_renew_stops_before_another_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "TRY_SECONDS", 0)
    api, clock = ObjectsInMemory(), Clock()
    tries: list[float] = []

    def tried() -> None:
        tries.append(clock.now)
        clock.now += 2

    first = Leader(api, "metacore", "operator", "a", clock=clock, on_try=tried)
    await first.attempt()
    began = clock.now
    api.failing = Unavailable("the API server does not answer")
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await first.hold()
    assert len(tries) > 1
    assert clock.now - began < leader.LEASE_SECONDS
