"""METACORE_ENFORCE in the ConfigMap rolls the kernels of a real release, which come back when it does not work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.cluster.addon_world import AddonWorld
from tests.cluster.conftest import TRUST
from tests.cluster.faults import Traffic
from tests.cluster.mode_world import CONFIG_MAP, DEPLOYMENT, ModeWorld
from tests.cluster.release import NAME

NewRelease = Callable[..., AddonWorld]


@pytest.fixture
def shadow(new_release: NewRelease) -> ModeWorld:
    """A release of two pods, in shadow."""
    world = ModeWorld(new_release().release)
    world.until("Settled", "shadow", "WishMet")
    world.until_observed("shadow", pods=2)
    return world


def upgrade(world: ModeWorld, values: Mapping[str, Any]) -> None:
    world.release.install({"crds": {"install": False}, "trust": {"keys": TRUST}, **values})


def test_a_flip_and_back_with_the_observed_mode_of_each_pod(shadow: ModeWorld) -> None:
    before = set(shadow.observed())

    shadow.wish("1")
    shadow.until("Settled", "enforce", "WishMet")
    assert set(shadow.observed().values()) == {("enforce", "enforce")}
    assert set(shadow.observed()) == set(shadow.stamped())
    assert len(shadow.observed()) == 2
    assert not before & set(shadow.observed())
    assert set(shadow.stamped().values()) == {"enforce"}
    shadow.kubectl("wait", "--for=condition=Ready", f"moderollout/{NAME}-kernel", "--timeout=5s")
    columns = shadow.kubectl("get", "mcm", "--no-headers").split()
    assert columns[:6] == [f"{NAME}-kernel", "1", "enforce", "Settled", "2", "enforce"]

    scraped = shadow.scraped()
    assert 'metacore_operator_mode_phase{phase="Settled"} 1.0' in scraped
    assert 'metacore_operator_mode_pods{mode="enforce"} 2.0' in scraped
    assert "metacore_operator_leader 1.0" in scraped

    shadow.wish("perhaps")
    shadow.until("Refused", "enforce", "WishUnknown")
    assert "'perhaps'" in shadow.condition("Stalled")["message"]

    shadow.kubectl("delete", CONFIG_MAP)
    shadow.until("Refused", "enforce", "ConfigMapMissing")
    shadow.kubectl("create", "configmap", f"{NAME}-config", "--from-literal=METACORE_ENFORCE=0")
    shadow.until("Settled", "shadow", "WishMet")
    assert set(shadow.observed().values()) == {("shadow", "shadow")}

    told = ["RollingOut", "WishMet", "WishUnknown", "ConfigMapMissing", "RollingOut", "WishMet"]
    assert [reason for _, reason in shadow.events("Deployment")] == told
    assert ("Warning", "WishUnknown") in shadow.events("ConfigMap")


def test_requests_during_a_flip_and_back_are_all_answered(new_release: NewRelease) -> None:
    world = new_release()
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    mode = ModeWorld(world.release)
    with Traffic(world) as traffic:
        mode.wish("1")
        mode.until("Settled", "enforce", "WishMet")
        traffic.goes_on()
        mode.wish("0")
        mode.until("Settled", "shadow", "WishMet")
        traffic.goes_on()
    assert traffic.failures == []
    assert traffic.lost() == []


def test_a_setting_that_breaks_enforcing_pods_leads_back_and_another_try_is_asked_for(new_release: NewRelease) -> None:
    # In shadow the variable is empty, which opens nothing; `enforce` is no network, and the kernel says so and ends.
    mode = {"fieldRef": {"fieldPath": "metadata.annotations['metacore.dev/mode']"}}
    broken = {"kernel": {"extraEnv": [{"name": "METACORE_EGRESS_ALLOW_PRIVATE", "valueFrom": mode}]}}
    world = ModeWorld(new_release(broken).release)
    world.until("Settled", "shadow", "WishMet")
    before = set(world.observed())

    world.wish("true")
    world.until("Refused", "shadow", "PodsFailing")
    assert "METACORE_EGRESS_ALLOW_PRIVATE: 'enforce': a host name needs a port" in world.condition("Stalled")["message"]
    assert world.status()["wish"] == "true"
    # Going back took no pod away that served.
    assert set(world.observed()) == before
    assert world.events("ConfigMap") == [("Normal", "RollingOut"), ("Warning", "PodsFailing")]

    upgrade(world, {})
    world.until("Refused", "shadow", "PodsFailing")
    world.ask_again("now")
    world.until("Settled", "enforce", "WishMet")
    assert set(world.observed().values()) == {("enforce", "enforce")}


def test_an_impossible_image_in_the_middle_leads_back_and_is_said_not_to_be_the_modes_fault(shadow: ModeWorld) -> None:
    image = shadow.deployment()["spec"]["template"]["spec"]["containers"][0]["image"]
    serving = set(shadow.observed())
    shadow.wish("1")
    shadow.until("Rolling", "enforce")
    shadow.image(f"{image}-nowhere")
    shadow.until("Returning", "shadow", "PodsFailing")
    shadow.image(image)
    shadow.until("Refused", "shadow", "PodsFailing")
    assert len(serving & set(shadow.observed())) >= 1
    assert set(shadow.observed().values()) == {("shadow", "shadow")}


def test_a_helm_upgrade_in_the_middle_and_a_killed_operator_change_nothing_about_it(shadow: ModeWorld) -> None:
    shadow.wish("1")
    shadow.until("Rolling", "enforce")
    shadow.kill_operator()
    upgrade(shadow, {"kernel": {"podAnnotations": {"example.com/upgraded": "yes"}}})
    shadow.until("Settled", "enforce", "WishMet")
    assert set(shadow.observed().values()) == {("enforce", "enforce")}
    template = shadow.deployment()["spec"]["template"]["metadata"]["annotations"]
    assert template == {"example.com/upgraded": "yes", "metacore.dev/mode": "enforce"}
    wish = shadow.kubectl("get", CONFIG_MAP, "-o", "jsonpath={.data.METACORE_ENFORCE}")
    assert wish == "1"


def test_a_canary_holds_one_pod_through_a_change_of_operators_and_then_goes_on(new_release: NewRelease) -> None:
    values = {"kernel": {"replicas": 3}, "operator": {"modeRollout": {"canarySeconds": 45}}}
    world = ModeWorld(new_release(values).release)
    world.until("Settled", "shadow", "WishMet")

    world.wish("1")
    world.kubectl("wait", "--for=jsonpath={.spec.paused}=true", DEPLOYMENT, "--timeout=60s")
    world.kill_operator()
    world.kubectl("wait", "--for=jsonpath={.status.availableReplicas}=4", DEPLOYMENT, "--timeout=60s")
    assert sorted(world.stamped().values()) == ["", "", "", "enforce"]
    world.until("Rolling", "enforce", "RollingOut")
    world.until("Settled", "enforce", "WishMet")
    assert "paused" not in world.deployment()["spec"]
    assert len(world.observed()) == 3
    assert set(world.observed().values()) == {("enforce", "enforce")}
    assert "CanaryRunning" in [reason for _, reason in world.events("Deployment")]


def test_violations_in_shadow_refuse_enforcement_until_there_are_fewer_than_allowed(new_release: NewRelease) -> None:
    world = ModeWorld(new_release({"operator": {"modeRollout": {"maxViolations": 1}}}).release)
    world.until("Settled", "shadow", "WishMet")
    world.violate(2)
    world.wish("1")
    world.until("Refused", "shadow", "TooManyViolations")
    assert world.status()["wish"] == "1"
    assert "2 violations" in world.condition("Stalled")["message"]
    assert ("Warning", "TooManyViolations") in world.events("ConfigMap")
    assert "metacore.dev/mode" not in world.deployment()["spec"]["template"]["metadata"].get("annotations", {})

    upgrade(world, {"operator": {"modeRollout": {"maxViolations": 2}}})
    world.until("Settled", "enforce", "WishMet")


def test_a_release_that_wishes_for_enforcement_from_the_start_and_later_by_its_values_for_shadow(
    new_release: NewRelease,
) -> None:
    world = ModeWorld(new_release({"enforce": True}).release)
    world.until("Settled", "enforce", "WishMet")
    assert set(world.observed().values()) == {("enforce", "enforce")}
    upgrade(world, {"enforce": False})
    world.until("Settled", "shadow", "WishMet")
    assert set(world.observed().values()) == {("shadow", "shadow")}
    assert world.status()["wish"] == "0"
