"""Operators, kernels, the API server and PostgreSQL killed in the middle: what was promised is kept."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from tests.cluster.__main__ import locked
from tests.cluster.addon_world import AddonWorld
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import TRUST, numbers
from tests.cluster.faults import Traffic, kill, leader, writers_held
from tests.cluster.node import NODE_NAME
from tests.cluster.release import Release


@pytest.fixture(scope="module")
def broken(cluster: Cluster) -> Iterator[Release]:
    """A release whose processes are killed."""
    found = Release(cluster, f"faults-{uuid.uuid4().hex[:8]}")
    try:
        found.install({"crds": {"install": False}, "trust": {"keys": TRUST}})
        yield found
    finally:
        found.uninstall()


@pytest.fixture
def world(broken: Release) -> Iterator[AddonWorld]:
    """An addon of this test on that release, which is whole when the test begins."""
    broken.renew()
    number = next(numbers)
    found = AddonWorld(broken, broken.namespace, key=f"addon{number}", organization=f"Acme {number}")
    found.register()
    yield found
    found.kubectl("delete", "addons", "--all", "--timeout=120s")


@pytest.fixture
def served(world: AddonWorld) -> AddonWorld:
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    return world


def test_another_operator_takes_over_when_the_leaders_pod_is_deleted(world: AddonWorld) -> None:
    before = leader(world)
    world.bundle("one")
    world.release.kubectl("delete", "pod", before, "--wait=false")
    started = time.monotonic()
    world.declare("one")
    world.until("condition=Ready")
    print(f"Ready {time.monotonic() - started:.1f} s after the leader's pod was deleted")
    assert leader(world) not in ("", before)


def test_another_operator_takes_over_from_one_that_was_killed(world: AddonWorld) -> None:
    before = leader(world)
    world.bundle("one")
    kill(world, before)
    started = time.monotonic()
    world.declare("one")
    world.until("condition=Ready")
    print(f"Ready {time.monotonic() - started:.1f} s after the leader was killed")


@pytest.mark.parametrize(
    "table",
    ["metacore_bundles", "metacore_journal", "metacore_installations", "metacore_registry"],
)
def test_an_operator_killed_in_the_middle_of_an_installation_loses_nothing(world: AddonWorld, table: str) -> None:
    """Each table is written at another step; the operator stands still there when it is killed."""
    world.bundle("one")
    with writers_held(world, table) as held:
        world.declare("one")
        held.wait_for_the_operator()
        kill(world, leader(world))
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "first"})[0] == 201
    assert world.titles() == ["first"]


def test_an_operator_killed_in_the_middle_of_an_upgrade_loses_nothing(served: AddonWorld) -> None:
    assert served.request("POST", body={"title": "old"})[0] == 201
    served.bundle("two", version="1.1.0", models=served.with_column("colour"))
    with writers_held(served, "metacore_registry") as held:
        served.declare("two")
        held.wait_for_the_operator()
        kill(served, leader(served))
        assert served.titles() == ["old"], "the version before serves on"
    served.until("jsonpath={.status.version}=1.1.0")
    served.until("condition=Ready")
    assert served.request("POST", body={"title": "new", "colour": "red"})[0] == 201
    assert served.titles() == ["new", "old"]


def test_an_operator_killed_in_the_middle_of_a_deletion_loses_nothing(served: AddonWorld) -> None:
    with writers_held(served, "metacore_installations") as held:
        served.kubectl("delete", "addon", served.key, "--wait=false")
        held.wait_for_the_operator()
        kill(served, leader(served))
    served.kubectl("wait", "--for=delete", f"addon/{served.key}", "--timeout=120s")
    assert served.request("GET")[0] == 404


def test_an_addon_waits_while_no_kernel_lives(world: AddonWorld) -> None:
    world.release.kubectl("scale", "deployment/metacore-kernel", "--replicas=0")
    world.release.kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=kernel", "--timeout=120s")
    world.bundle("one")
    world.declare("one")
    world.until('jsonpath={.status.conditions[?(@.type=="Served")].reason}=NoKernels')
    kill(world, leader(world))
    world.release.kubectl("scale", "deployment/metacore-kernel", "--replicas=2")
    world.release.rolled_out()
    world.until("condition=Ready")
    world.until("jsonpath={.status.kernels.live}=2")


def test_kernels_killed_under_load_lose_no_write(served: AddonWorld) -> None:
    with Traffic(served) as traffic:
        for pod in served.release.pods("kernel"):
            kill(served, pod)
            traffic.goes_on()
    served.release.rolled_out()
    assert traffic.lost() == []
    print(f"{len(traffic.acknowledged)} writes, {len(traffic.failures)} sent again")


def test_kernel_pods_deleted_under_load_fail_no_request(served: AddonWorld) -> None:
    with Traffic(served) as traffic:
        for pod in served.release.pods("kernel"):
            served.release.kubectl("delete", "pod", pod, "--timeout=120s")
            served.release.rolled_out()
            traffic.goes_on()
    assert traffic.failures == []
    assert traffic.lost() == []


@pytest.mark.alone
def test_postgresql_killed_under_load_loses_no_write(cluster: Cluster, served: AddonWorld) -> None:
    served.bundle("two", version="1.1.0", models=served.with_column("colour"))
    with Traffic(served) as traffic:
        cluster.database.kill()
        served.declare("two")
        cluster.database.up()
        traffic.goes_on()
    assert traffic.lost() == []
    served.until("jsonpath={.status.version}=1.1.0")
    served.until("condition=Ready")
    print(f"{len(traffic.acknowledged)} writes, {len(traffic.failures)} sent again")


@pytest.mark.alone
def test_an_api_server_that_crashes_stops_nothing(cluster: Cluster, served: AddonWorld) -> None:
    with Traffic(served) as traffic:
        with locked():  # Whoever asks for the cluster meanwhile would take it for broken.
            cluster.node.restart_api_server()
        served.bundle("two", version="1.1.0", models=served.with_column("colour"))
        served.declare("two")
        served.until("jsonpath={.status.version}=1.1.0")
        served.until("condition=Ready")
        traffic.goes_on()
    assert traffic.failures == []
    assert traffic.lost() == []


@pytest.mark.alone
def test_an_eviction_leaves_a_kernel_and_a_cordoned_node_is_waited_for(cluster: Cluster, served: AddonWorld) -> None:
    first, second = served.release.pods("kernel")
    cluster.kubectl("cordon", NODE_NAME)
    try:
        with Traffic(served) as traffic:
            evict(served, first)
            served.release.kubectl("wait", "--for=delete", f"pod/{first}", "--timeout=120s")
            with pytest.raises(subprocess.CalledProcessError) as refused:
                evict(served, second)
            assert "disruption budget" in refused.value.stderr
            traffic.goes_on()
        assert traffic.failures == []
    finally:
        cluster.kubectl("uncordon", NODE_NAME)
    served.release.rolled_out()
    served.until("jsonpath={.status.kernels.acknowledged}=2")
    assert traffic.lost() == []


def evict(world: AddonWorld, pod: str) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/pods/{pod}/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": world.namespace}}
    world.release.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
