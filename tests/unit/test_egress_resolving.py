"""Looking names up: what one addon's dead names cost it, and that they cost nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from tests.outside import outside, reply

from metacore.egress import resolving
from metacore.egress.broker import Broker, EgressConfig
from metacore.egress.outbound import OutboundRequest
from metacore.egress.resolving import SystemResolver
from metacore.errors import Unavailable


class SlowNames:
    """Names that begin with `dead` get no answer before `give_up`; others are this machine's, but for `unknown`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun = threading.Semaphore(0)
        self.give_up = threading.Event()

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("dead"):
            self.begun.release()
            assert self.give_up.wait(60)
        if host.startswith(("dead", "unknown")):
            raise OSError("no such name")
        return ["127.0.0.1"]


@pytest.fixture
def names() -> SlowNames:
    return SlowNames()


@pytest.fixture
async def resolver(names: SlowNames) -> AsyncIterator[SystemResolver]:
    made = SystemResolver(names, wait_seconds=0.05)
    yield made
    names.give_up.set()
    made.close()


async def asked_for(addon: str, resolver: SystemResolver, host: str) -> Sequence[str]:
    resolving.owner.set(addon)
    return await resolver(host, 443)


async def occupied(addon: str, resolver: SystemResolver, names: SlowNames) -> None:
    """Two lookups of `addon` whose threads hang, though nobody waits for them any more."""
    for number in range(2):
        waiting = asyncio.create_task(asked_for(addon, resolver, f"dead-{addon}-{number}"))
        assert await asyncio.to_thread(names.begun.acquire, timeout=60)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_dead_names_of_addons_leave_threads_to_others(resolver: SystemResolver, names: SlowNames) -> None:
    for addon in ("a", "b", "c"):
        await occupied(addon, resolver, names)
        with pytest.raises(Unavailable, match=f"2 names of '{addon}' are being looked up") as busy:
            await asyncio.create_task(asked_for(addon, resolver, "fine.example.com"))
        assert busy.value.code == "resolver_busy"
    assert await asyncio.create_task(asked_for("d", resolver, "fine.example.com")) == ["127.0.0.1"]
    assert await resolver("fine.example.com", 443) == ["127.0.0.1"]


async def test_a_thread_that_is_free_again_serves_its_addon(resolver: SystemResolver, names: SlowNames) -> None:
    await occupied("a", resolver, names)
    patient = SystemResolver(names)
    await occupied("a", patient, names)
    waiting = asyncio.create_task(asked_for("a", patient, "fine.example.com"))
    names.give_up.set()
    try:
        assert await waiting == ["127.0.0.1"]
    finally:
        patient.close()


async def test_who_asks_the_same_waits_for_one_answer(resolver: SystemResolver, names: SlowNames) -> None:
    first = asyncio.create_task(asked_for("a", resolver, "dead.example.com"))
    assert await asyncio.to_thread(names.begun.acquire, timeout=60)
    others = [asyncio.create_task(asked_for("a", resolver, "dead.example.com")) for _ in range(20)]
    first.cancel()
    names.give_up.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] + [OSError] * 20
    assert names.asked == ["dead.example.com"]


async def test_many_at_once_with_names_that_answer_all_get_through(names: SlowNames) -> None:
    resolver = SystemResolver(names)
    answers = await asyncio.gather(*(asked_for("a", resolver, f"h{n}.example.com") for n in range(50)))
    assert answers == [["127.0.0.1"]] * 50
    resolver.close()


async def test_an_unknown_name_is_not_asked_for_again_at_once(
    resolver: SystemResolver, names: SlowNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with pytest.raises(OSError, match=r"no such name|a moment ago"):
            await resolver("unknown.example.com", 443)
    assert names.asked == ["unknown.example.com"]
    monkeypatch.setattr(resolving, "MOST_UNKNOWN", 2)
    for host in ("unknown-1", "unknown-2", "unknown.example.com"):
        with pytest.raises(OSError, match=r"no such name|a moment ago"):
            await resolver(host, 443)
    # Of more than can be kept, the oldest are forgotten first.
    assert names.asked == ["unknown.example.com", "unknown-1", "unknown-2", "unknown.example.com"]


async def test_requests_of_one_addon_end_in_words_and_those_of_others_arrive(
    resolver: SystemResolver, names: SlowNames
) -> None:
    async with outside(lambda _: reply()) as server:
        broker = Broker(replace(EgressConfig.parse(["127.0.0.0/8"]), resolver=resolver))
        for number in range(2):
            with pytest.raises(Unavailable, match="no answer within") as late:
                await broker.send(OutboundRequest("GET", f"http://dead-{number}/", timeout=0.3, owner="a"))
            assert late.value.code == "timeout"
        url = server.url(host="fine.example.com")
        with pytest.raises(Unavailable, match="names of 'a'"):
            await broker.send(OutboundRequest("GET", url, owner="a"))
        for other in ("b", ""):
            assert (await broker.send(OutboundRequest("GET", url, owner=other))).status == 200
        await broker.close()
