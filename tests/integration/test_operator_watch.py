"""kopf itself against an API server that refuses, forgets and comes back: only a stop ends the watch on Addons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import kopf
import pytest
from tests.api_server_of_addons import AddonServer
from tests.unit.test_operator_reconcile import World

from metacore_operator import __main__ as process
from metacore_operator import config
from metacore_operator.addon import Receiver, register
from metacore_operator.api_server import ApiServer
from metacore_operator.cluster import nudges
from metacore_operator.cluster.board import Board
from metacore_operator.cluster.health import Beats
from metacore_operator.cluster.runner import ClusterRunner
from metacore_operator.cluster.trust import SecretTrust
from metacore_operator.config import FINALIZER
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.outcomes import Done, Outcome
from metacore_operator.served import until_served
from metacore_operator.settings import OperatorSettings

BACKOFFS = (0.005,) * 3
TRIES = len(BACKOFFS) + 1


class Seen:
    """What kopf delivered, by `namespace/name`."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.removals: list[str] = []

    def seen(self, document: Mapping[str, Any]) -> None:
        self.names.add(_name(document))

    def gone(self, document: Mapping[str, Any]) -> None:
        self.names.discard(_name(document))

    async def removed(self, document: Mapping[str, Any]) -> Outcome:
        self.removals.append(_name(document))
        return Done()


def _name(document: Mapping[str, Any]) -> str:
    return f"{document['metadata']['namespace']}/{document['metadata']['name']}"


class Watching:
    def __init__(
        self,
        server: AddonServer,
        task: asyncio.Task[None],
        stop: asyncio.Event,
        beats: Beats,
        metrics: OperatorMetrics,
    ) -> None:
        self.server = server
        self.task = task
        self.stop = stop
        self.beats = beats
        self.metrics = metrics
        self.seen = Seen()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Nothing else may end the operator meanwhile."""
        async with asyncio.timeout(60):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.005)

    def scraped(self) -> list[str]:
        return self.metrics.render().decode().splitlines()

    async def until_seen(self, *names: str) -> None:
        await self.until(lambda: self.seen.names.issuperset(names))


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the delivery of Addons as the operator's process does, with short waits between tries."""

    def quick(settings: kopf.OperatorSettings, operator: OperatorSettings) -> kopf.OperatorSettings:
        configured = config.configure(settings, operator)
        configured.queueing.idle_timeout = 0.01
        configured.queueing.error_delays = (0.005,)
        return configured

    monkeypatch.setattr(config, "BACKOFFS", BACKOFFS)
    monkeypatch.setattr(process, "configure", quick)
    monkeypatch.setattr(process, "until_served", partial(until_served, retry_seconds=0.005))

    @asynccontextmanager
    async def run(
        server: AddonServer, receiver: Callable[[ApiServer, Beats], Receiver] | None = None, **settings: Any
    ) -> AsyncIterator[Watching]:
        async with server.serving() as api:
            monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
            registry, stop, beats = kopf.OperatorRegistry(), asyncio.Event(), Beats()
            metrics = OperatorMetrics(process=False)
            operator = OperatorSettings(namespaces=("team-a", "team-b"), **settings)
            task = asyncio.create_task(process.deliver(registry, operator, api, beats, stop))
            found = Watching(server, task, stop, beats, metrics)
            register(
                registry,
                found.seen if receiver is None else receiver(api, beats),
                process.refusals_on(beats, metrics),
            )
            try:
                yield found
            finally:
                stop.set()
                async with asyncio.timeout(30):
                    await task

    return run


@pytest.mark.parametrize("status", [403, 404, 500])
@pytest.mark.parametrize("from_the_start", [False, True])
async def test_a_namespace_that_is_refused_stalls_only_itself_and_goes_on_once_it_may(
    watching: Callable[..., Any], status: int, from_the_start: bool
) -> None:
    server = AddonServer()
    await server.put("team-a", "first")
    await server.put("team-b", "first")
    if from_the_start:
        await server.refuse("team-a", status)
    async with watching(server) as found:
        await found.until_seen("team-b/first")
        if not from_the_start:
            await found.until_seen("team-a/first")
            await server.refuse("team-a", status)
        await server.put("team-a", "second")
        # Longer than kopf tries any one request.
        await found.until(lambda: server.refusals["team-a"] > 3 * TRIES)
        await server.put("team-b", "second")
        await found.until_seen("team-b/second")
        assert "team-a/second" not in found.seen.names

        del server.refused["team-a"]

        await found.until_seen("team-a/first", "team-a/second")
        await found.until(lambda: server.finalizers("team-a", "second") == [FINALIZER])


async def test_a_refused_namespace_is_told_once_and_when_it_is_over(
    watching: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kopf.objects", *config.REPEATING):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    config.quieten()
    caplog.set_level(logging.INFO)
    server = AddonServer()
    await server.refuse("team-a", 403)
    why = "Addons in namespace 'team-a' cannot be read: the API server answered 403"
    async with watching(server) as found:
        await found.until(lambda: server.refusals["team-a"] > 3 * TRIES)
        assert found.beats.remarks() == [why]
        assert 'metacore_operator_namespace_refused{watched="team-a"} 1.0' in found.scraped()
        assert not any("team-b" in line for line in found.scraped())
        del server.refused["team-a"]
        await server.put("team-a", "first")
        await found.until_seen("team-a/first")
        assert found.beats.remarks() == []
        assert 'metacore_operator_namespace_refused{watched="team-a"} 0.0' in found.scraped()
        assert (found.beats.lacking(), found.beats.late()) == ([], [])
    told = [record for record in caplog.records if "team-a" in str(record.__dict__.get("path", record.getMessage()))]
    assert [record.getMessage() for record in told] == ["operator.not_served", "operator.served_again"]
    assert told[0].__dict__["error"] == why


async def test_a_stop_ends_it_while_everything_is_refused(watching: Callable[..., Any]) -> None:
    server = AddonServer()
    await server.refuse("team-a", 403)
    await server.refuse("team-b", 404)
    async with watching(server) as found:
        await found.until(lambda: min(server.refusals["team-a"], server.refusals["team-b"]) > TRIES)
    assert found.task.done() and found.task.exception() is None


async def test_without_the_definition_it_is_not_ready_and_watches_as_soon_as_it_is_there(
    watching: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = AddonServer()
    server.defined = False
    await server.put("team-a", "first")
    async with watching(server) as found:
        await found.until(lambda: server.looks > 20)
        absent = "there is no CustomResourceDefinition addons.metacore.dev"
        assert found.beats.lacking() == [absent]
        assert found.beats.late() == [], "it lives: a new start would not help"
        told = [record for record in caplog.records if record.getMessage() == "operator.addons_not_served"]
        assert [record.__dict__["error"] for record in told] == [absent]
        assert not found.seen.names

        # Of several API servers, the one that kopf asks may hear of it later.
        server.behind = TRIES - 1
        server.defined = True

        await found.until_seen("team-a/first")
        assert found.beats.lacking() == [] and server.behind == 0


async def test_a_stop_ends_the_wait_for_the_definition(watching: Callable[..., Any]) -> None:
    server = AddonServer()
    server.defined = False
    async with watching(server) as found:
        await found.until(lambda: bool(found.beats.lacking()))
    assert found.task.done() and found.task.exception() is None


async def test_a_definition_that_goes_and_comes_back_is_watched_again(watching: Callable[..., Any]) -> None:
    server = AddonServer()
    await server.put("team-a", "first")
    async with watching(server) as found:
        await found.until_seen("team-a/first")
        server.defined = False
        for namespace in ("team-a", "team-b"):
            await server.cut(namespace)
        await found.until(lambda: min(server.refusals["team-a"], server.refusals["team-b"]) > 3 * TRIES)

        server.defined = True
        await server.put("team-a", "second")
        await server.put("team-b", "second")

        await found.until_seen("team-a/second", "team-b/second")


async def test_objects_that_may_not_be_written_do_not_hold_the_workers(watching: Callable[..., Any]) -> None:
    server = AddonServer()
    server.unwritable = {f"policy-{number}" for number in range(6)}
    for name in sorted(server.unwritable):
        await server.put("team-a", name)
    async with watching(server, workers=1) as found:
        await found.until(lambda: sum(server.refusals.values()) > TRIES)
        await server.put("team-a", "plain")
        await found.until(lambda: server.finalizers("team-a", "plain") == [FINALIZER])


async def test_what_kopf_gave_up_is_taken_up_again_once_it_may_be_written(
    watching: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody touches the Addon: neither when it was made, nor when it is deleted, while its writes are refused."""
    monkeypatch.setattr(nudges, "NUDGE_SECONDS", 0.1)
    server, world = AddonServer(), World()
    server.unwritable = {"tickets"}
    runner: list[ClusterRunner] = []

    def made(api: ApiServer, beats: Beats) -> ClusterRunner:
        settings = OperatorSettings(namespace="team-a", pulse=0.01)
        trust = SecretTrust(api, "team-a", "trust")
        metrics = OperatorMetrics(process=False)
        runner.append(
            ClusterRunner(world.ports, Board(api, "one"), trust, beats, metrics, settings, finalizer=FINALIZER)
        )
        return runner[0]

    await server.put("team-a", "tickets")
    async with watching(server, made) as found:
        working = asyncio.create_task(runner[0].run(found.stop))
        await found.until(lambda: server.refusals["tickets"] > 3 * TRIES)
        server.unwritable.clear()
        await found.until(lambda: server.phase("team-a", "tickets") == "Ready")

        server.unwritable.add("tickets")
        server.refusals.clear()
        deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]}
        await server.put("team-a", "tickets", **deleted)
        await found.until(lambda: server.refusals["tickets"] > 3 * TRIES)
        server.unwritable.clear()
        await found.until(lambda: not server.has("team-a", "tickets"))
    await working
