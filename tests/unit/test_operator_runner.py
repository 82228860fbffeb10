"""The runner of a cluster over objects in memory: work that hangs is seen, and an idle operator is well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.kubernetes_objects import ObjectsInMemory
from tests.unit.test_operator_reconcile import UID, World, addon_of

from metacore.installer.runner import INDEX_TIMEOUT
from metacore_operator.cluster.board import Board
from metacore_operator.cluster.health import Beats
from metacore_operator.cluster.runner import PULSE_LATE_SECONDS, WORK_LATE_SECONDS, ClusterRunner
from metacore_operator.cluster.trust import SecretTrust
from metacore_operator.config import FINALIZER
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.outcomes import Done
from metacore_operator.resources.addon import Addon
from metacore_operator.settings import OperatorSettings
from metacore_operator.sources.source import Fetched

PATH = "/apis/metacore.dev/v1alpha1/namespaces/default/addons/tickets"
PATIENCE = 30.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(World):
    """A source that hangs from `hangs` on until `goes_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.goes_on = asyncio.Event(), asyncio.Event()

    async def fetch(self, addon: Addon, *given: Any, **named: Any) -> Fetched:
        self.hangs.set()
        await self.goes_on.wait()
        return await super().fetch(addon, *given, **named)


class Cluster:
    def __init__(self, world: World) -> None:
        self.api = ObjectsInMemory()
        self.clock = Clock()
        self.beats = Beats(self.clock)
        self.document: dict[str, Any] = {
            "metadata": {
                "name": "tickets",
                "namespace": "default",
                "uid": UID,
                "generation": 1,
                "finalizers": [FINALIZER],
            },
            "spec": addon_of().spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True),
        }
        self.api.put(PATH, self.document)
        trust = SecretTrust(self.api, "default", "metacore-trust")
        self.runner = ClusterRunner(
            world.ports,
            Board(self.api, "one"),
            trust,
            self.beats,
            OperatorMetrics(process=False),
            OperatorSettings(workers=1, pulse=0.01),
            finalizer=FINALIZER,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.runner.run(stop))
        try:
            async with asyncio.timeout(PATIENCE):
                yield
        finally:
            stop.set()
            await task

    async def until_ready(self) -> None:
        while True:
            if (self.api.objects[PATH].get("status") or {}).get("phase") == "Ready":
                return
            await asyncio.sleep(0.01)

    def late(self) -> list[str]:
        """Without the loops, which a jump of the clock makes late for a moment."""
        return [text for text in self.beats.late() if not text.startswith("pulse")]


async def test_work_that_hangs_is_named_and_idleness_is_no_lateness() -> None:
    world = Slow()
    cluster = Cluster(world)
    async with cluster.running():
        cluster.clock.now += WORK_LATE_SECONDS + 1
        assert cluster.late() == [], "nothing to do"
        cluster.runner.seen(cluster.document)
        await world.hangs.wait()
        cluster.clock.now += WORK_LATE_SECONDS
        assert cluster.late() == []
        cluster.clock.now += 1
        assert cluster.late() == [f"work on default/tickets: {WORK_LATE_SECONDS + 1:.0f} s ago"]
        world.goes_on.set()
        await cluster.until_ready()
        cluster.clock.now += WORK_LATE_SECONDS + 1
        assert cluster.late() == []


async def test_each_step_of_an_installation_is_progress() -> None:
    world = Slow()
    cluster = Cluster(world)
    installing, finish = asyncio.Event(), asyncio.Event()
    install = world.install

    async def slowly(*given: Any, **named: Any) -> Any:
        cluster.clock.now += WORK_LATE_SECONDS
        named["progress"]("index addon_tickets.a")
        cluster.clock.now += WORK_LATE_SECONDS
        installing.set()
        await finish.wait()
        return await install(*given, **named)

    world.install = slowly  # type: ignore[method-assign]
    world.goes_on.set()
    async with cluster.running():
        cluster.runner.seen(cluster.document)
        await installing.wait()
        assert cluster.late() == []
        cluster.clock.now += 1
        assert len(cluster.late()) == 1
        finish.set()
        await cluster.until_ready()


async def test_a_removal_that_hangs_is_named() -> None:
    world = World()
    cluster = Cluster(world)
    started, goes_on = asyncio.Event(), asyncio.Event()

    async def remove(*_given: Any, **_named: Any) -> int:
        started.set()
        await goes_on.wait()
        return 1

    world.remove = remove  # type: ignore[method-assign]
    removal = asyncio.create_task(cluster.runner.removed(cluster.document))
    await started.wait()
    cluster.clock.now += WORK_LATE_SECONDS + 1
    assert cluster.late() == [f"removing default/tickets: {WORK_LATE_SECONDS + 1:.0f} s ago"]
    goes_on.set()
    assert isinstance(await removal, Done)
    assert cluster.late() == []


def test_the_longest_statement_that_is_meant_is_not_late() -> None:
    assert WORK_LATE_SECONDS > float(INDEX_TIMEOUT.removesuffix("s")) > PULSE_LATE_SECONDS
