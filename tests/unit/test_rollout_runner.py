"""The API server is asked by name, told once, and patched only when something changes."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping
from typing import Any

import pytest
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import Unavailable
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.rollout.decide import Policy
from metacore_operator.rollout.objects import Objects, Release
from metacore_operator.rollout.runner import RESYNC_SECONDS, ModeRollouts
from metacore_operator.rollout.words import Phase

CORE = "/api/v1/namespaces/backstage"
DEPLOYMENT = "/apis/apps/v1/namespaces/backstage/deployments/shop-kernel"
SHOWN = "/apis/metacore.dev/v1alpha1/namespaces/backstage/moderollouts/shop-kernel"
START = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)


class Database:
    def __init__(self) -> None:
        self.kernels: dict[str, str] = {}
        self.violations_found = 0
        self.failing: Exception | None = None

    async def modes(self) -> Mapping[str, str]:
        if self.failing is not None:
            raise self.failing
        return self.kernels

    async def violations(self, seconds: float) -> int:
        assert seconds == 600
        return self.violations_found


class World:
    """A release of one pod, and an operator that can be started anew."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.api = ObjectsInMemory()
        self.database = Database()
        self.policy = policy or Policy()
        self.now = START
        self.metrics = OperatorMetrics(process=False)
        self.wish("")
        self.deploy()
        self.pod("a", "shadow")
        self.operator = self.started()

    def started(self) -> ModeRollouts:
        release = Release("backstage", "shop-config", "shop-kernel")
        return ModeRollouts(
            Objects(self.api, release, "tester"),
            self.database,
            self.policy,
            self.metrics,
            window=600,
            pulse=0.01,
            now=lambda: self.now,
        )

    def wish(self, text: str) -> None:
        self.api.put(
            f"{CORE}/configmaps/shop-config",
            {"metadata": {"name": "shop-config", "uid": "c"}, "data": {"METACORE_ENFORCE": text}},
        )

    def deploy(self) -> None:
        self.api.put(
            DEPLOYMENT,
            {
                "metadata": {"name": "shop-kernel", "uid": "d", "generation": 1},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}}, "template": {}},
                "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
            },
        )

    def pod(self, name: str, mode: str) -> None:
        for path in [path for path in self.api.objects if path.startswith(f"{CORE}/pods/")]:
            del self.api.objects[path]
        self.api.put(
            f"{CORE}/pods/{name}",
            {
                "metadata": {
                    "name": name,
                    "creationTimestamp": "2026-03-01T08:00:00Z",
                    "annotations": {"metacore.dev/mode": mode},
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
        )
        self.database.kernels = {name: mode}

    @property
    def stamp(self) -> str | None:
        template = self.api.objects[DEPLOYMENT]["spec"]["template"]
        found = template.get("metadata", {}).get("annotations", {}).get("metacore.dev/mode")
        return None if found is None else str(found)

    @property
    def shown(self) -> dict[str, Any]:
        return dict(self.api.objects[SHOWN]["status"])

    def events(self) -> list[tuple[str, str, str]]:
        found = [item for path, item in self.api.objects.items() if path.startswith(f"{CORE}/events/")]
        return [(item["involvedObject"]["kind"], item["type"], item["reason"]) for item in found]

    def written(self) -> list[str]:
        return [method for method, path in self.api.calls if path == DEPLOYMENT and method != "GET"]


async def test_a_release_that_has_what_it_wishes_for_is_told_and_left_alone() -> None:
    world = World()
    await world.operator.turn()
    assert (world.shown["phase"], world.shown["mode"], world.shown["pods"]) == ("Settled", "shadow", "1 shadow")
    assert world.api.objects[SHOWN]["metadata"]["ownerReferences"] == [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-kernel", "uid": "d"}
    ]
    assert (world.written(), world.events(), world.stamp) == ([], [], None)


async def test_a_flip_is_followed_by_one_operator_and_finished_by_another() -> None:
    world = World()
    await world.operator.turn()
    world.wish("1")
    await world.operator.turn()
    assert (world.stamp, world.shown["phase"], world.shown["wish"]) == ("enforce", "Rolling", "1")
    await world.operator.turn()
    assert world.written() == ["APPLY"]
    other = world.started()
    world.pod("b", "enforce")
    decision = await other.turn()
    assert decision is not None
    assert decision.phase is Phase.SETTLED
    assert world.shown["kernels"] == [
        {"name": "b", "mode": "enforce", "observed": "enforce", "ready": True, "problem": ""}
    ]
    scraped = world.metrics.render().decode().splitlines()
    assert 'metacore_operator_mode_phase{phase="Settled"} 1.0' in scraped
    assert 'metacore_operator_mode_phase{phase="Rolling"} 0.0' in scraped
    assert 'metacore_operator_mode_pods{mode="enforce"} 1.0' in scraped
    assert 'metacore_operator_mode_changes_total{phase="Rolling"} 1.0' in scraped
    assert world.events() == [
        ("Deployment", "Normal", "RollingOut"),
        ("ConfigMap", "Normal", "RollingOut"),
        ("Deployment", "Normal", "WishMet"),
        ("ConfigMap", "Normal", "WishMet"),
    ]


async def test_pods_that_were_evicted_stand_in_nobodys_way() -> None:
    world = World()
    world.wish("1")
    await world.operator.turn()
    world.pod("b", "enforce")
    evicted = copy.deepcopy(world.api.objects[f"{CORE}/pods/b"])
    evicted["metadata"]["name"] = "a"
    evicted["status"] = {
        "phase": "Failed",
        "containerStatuses": [{"name": "kernel", "restartCount": 5, "state": {"terminated": {"exitCode": 137}}}],
    }
    world.api.put(f"{CORE}/pods/a", evicted)
    await world.operator.turn()
    assert (world.shown["phase"], world.shown["pods"]) == ("Settled", "1 enforce")
    assert [kernel["name"] for kernel in world.shown["kernels"]] == ["b"]


async def test_a_return_is_told_once() -> None:
    world = World()
    world.wish("1")
    await world.operator.turn()
    path = f"{CORE}/pods/b"
    world.pod("b", "enforce")
    world.database.kernels = {}
    world.api.objects[path]["status"] = {
        "containerStatuses": [{"name": "kernel", "restartCount": 3, "state": {"running": {}}}]
    }
    await world.operator.turn()
    assert (world.shown["phase"], world.stamp) == ("Returning", None)
    world.pod("c", "")
    world.database.kernels = {"c": "shadow"}
    await world.operator.turn()
    assert world.shown["phase"] == "Refused"
    told = [(type_, reason) for kind, type_, reason in world.events() if kind == "ConfigMap"]
    assert told == [("Normal", "RollingOut"), ("Warning", "PodsFailing")]


async def test_conditions_are_those_of_kstatus_and_keep_their_time() -> None:
    world = World()
    await world.operator.turn()
    world.now += datetime.timedelta(minutes=1)
    world.wish("perhaps")
    await world.operator.turn()
    conditions = {item["type"]: item for item in world.shown["conditions"]}
    assert {name: item["status"] for name, item in conditions.items()} == {"Ready": "False", "Stalled": "True"}
    assert "observedGeneration" not in conditions["Ready"]
    since = conditions["Ready"]["lastTransitionTime"]
    assert since == "2026-03-01T09:01:00Z"
    world.now += datetime.timedelta(minutes=1)
    world.wish("possibly")
    await world.operator.turn()
    conditions = {item["type"]: item for item in world.shown["conditions"]}
    assert conditions["Ready"]["lastTransitionTime"] == since
    assert "possibly" in conditions["Ready"]["message"]
    assert len(world.events()) == 2


async def test_nothing_is_asked_of_pods_while_nothing_changes() -> None:
    world = World()
    await world.operator.turn()
    before = len(world.api.calls)
    assert await world.operator.turn() is None
    assert [method for method, _ in world.api.calls[before:]] == ["GET", "GET"]
    world.now += datetime.timedelta(seconds=RESYNC_SECONDS)
    assert await world.operator.turn() is not None


async def test_the_guard_counts_in_its_window() -> None:
    world = World(Policy(most_violations=2))
    world.database.violations_found = 3
    world.wish("1")
    await world.operator.turn()
    assert (world.stamp, world.shown["phase"]) == (None, "Refused")
    world.database.violations_found = 2
    world.now += datetime.timedelta(seconds=RESYNC_SECONDS)
    await world.operator.turn()
    assert world.stamp == "enforce"


async def test_a_database_that_is_away_decides_nothing_about_what_is_under_way() -> None:
    world = World()
    world.wish("1")
    await world.operator.turn()
    world.pod("b", "enforce")
    world.database.failing = Unavailable("no database")
    await world.operator.turn()
    assert world.shown["phase"] == "Rolling"
    world.database.failing = None
    await world.operator.turn()
    assert world.shown["phase"] == "Settled"


async def test_without_a_deployment_nothing_happens_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    del world.api.objects[DEPLOYMENT]
    for _ in range(3):
        assert await world.operator.turn() is None
    (record,) = caplog.records
    assert "there is no Deployment shop-kernel" in record.__dict__["error"]
    assert {path for method, path in world.api.calls} == {DEPLOYMENT}


async def test_a_deployment_that_was_made_again_meanwhile_is_not_stamped_by_what_was_decided_for_the_other() -> None:
    world = World()
    document = await world.api.get(DEPLOYMENT)
    document["metadata"]["uid"] = "another"
    world.wish("1")
    stale = await world.api.get(DEPLOYMENT)
    world.api.put(DEPLOYMENT, document)

    async def old(path: str) -> dict[str, Any]:
        return stale if path == DEPLOYMENT else await ObjectsInMemory.get(world.api, path)

    world.api.get = old  # type: ignore[method-assign]
    assert await world.operator.turn() is None
    assert world.stamp is None


async def test_a_status_that_cannot_be_shown_is_shown_later_and_events_are_told_all_the_same() -> None:
    world = World()
    world.wish("1")
    create = world.api.create

    async def refusing(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if path.endswith("moderollouts"):
            raise Unavailable("the server could not find the requested resource")
        return await create(path, body)

    world.api.create = refusing  # type: ignore[method-assign]
    await world.operator.turn()
    await world.operator.turn()
    assert SHOWN not in world.api.objects
    assert world.events() == [("Deployment", "Normal", "RollingOut"), ("ConfigMap", "Normal", "RollingOut")]
    world.api.create = create  # type: ignore[method-assign]
    await world.operator.turn()
    assert world.shown["phase"] == "Rolling"


async def test_a_status_that_somebody_deleted_is_shown_again_and_nothing_is_told_anew() -> None:
    world = World()
    world.wish("perhaps")
    await world.operator.turn()
    del world.api.objects[SHOWN]
    world.now += datetime.timedelta(seconds=RESYNC_SECONDS)
    await world.operator.turn()
    assert world.shown["phase"] == "Refused"
    assert len(world.events()) == 2


async def test_a_canary_pauses_and_going_on_takes_the_pause_away() -> None:
    world = World(Policy(canary=60))
    world.api.objects[DEPLOYMENT]["spec"]["replicas"] = 2
    world.api.objects[DEPLOYMENT]["status"] |= {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    world.wish("1")
    await world.operator.turn()
    assert world.stamp == "enforce"
    assert "paused" not in world.api.objects[DEPLOYMENT]["spec"]
    world.api.objects[DEPLOYMENT]["status"] |= {"replicas": 3, "updatedReplicas": 1}
    world.pod("b", "enforce")
    await world.operator.turn()
    assert world.api.objects[DEPLOYMENT]["spec"]["paused"] is True
    world.now += datetime.timedelta(seconds=60)
    await world.started().turn()
    assert "paused" not in world.api.objects[DEPLOYMENT]["spec"]
    assert world.shown["phase"] == "Rolling"
