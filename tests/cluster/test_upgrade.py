"""`helm upgrade` from an earlier chart, while people work with the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.addon_world import AddonWorld
from tests.cluster.cluster import HelmFailed
from tests.cluster.conftest import TRUST
from tests.cluster.faults import Traffic
from tests.cluster.release import NAME

PREVIOUS = Path(__file__).parent / "previous" / "metacore-0.0.9.tgz"
"""The chart of commit 4966d40, packaged under a lower version."""


def test_an_upgrade_from_the_previous_chart_fails_no_request(new_release: Callable[..., AddonWorld]) -> None:
    world = new_release(chart=PREVIOUS)
    release = world.release
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    assert installed(world) == "metacore-0.0.9"
    before = release.kubectl("get", "secret", f"{NAME}-secrets", "-o", "jsonpath={.data}")
    pods = release.pods("kernel") + release.pods("operator")

    values = {
        "crds": {"install": False},
        "trust": {"keys": TRUST},
        # Every pod is replaced.
        "settings": {"METACORE_LOG_LEVEL": "warning"},
        "operator": {"settings": {"METACORE_LOG_LEVEL": "warning"}},
    }
    with Traffic(world) as traffic:
        release.install(values)
        release.rolled_out("kernel")
        release.rolled_out("operator")
        traffic.goes_on()
    assert traffic.failures == []
    assert traffic.lost() == []

    assert installed(world) != "metacore-0.0.9"
    assert not set(pods) & set(release.pods("kernel") + release.pods("operator"))
    assert release.kubectl("get", "secret", f"{NAME}-secrets", "-o", "jsonpath={.data}") == before
    world.bundle("two", version="1.1.0", models=world.with_column("colour"))
    world.declare("two")
    world.until("jsonpath={.status.version}=1.1.0")
    world.until("condition=Ready")


def test_an_upgrade_that_cannot_work_leaves_the_old_kernels_serving(new_release: Callable[..., AddonWorld]) -> None:
    world = new_release()
    release = world.release
    pods = release.pods("kernel")
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    values = {"crds": {"install": False}, "trust": {"keys": TRUST}}
    absent = f"{release.cluster.image.rpartition(':')[0]}:absent"
    with Traffic(world) as traffic:
        with pytest.raises(HelmFailed, match="absent"):
            release.install(values, "--timeout=20s", image=absent)
        traffic.goes_on()
    assert traffic.failures == []
    assert set(pods) <= set(release.pods("kernel"))
    release.install(values)
    release.rolled_out()
    assert traffic.lost() == []


def installed(world: AddonWorld) -> str:
    listed = world.release.cluster.helm("list", "--namespace", world.namespace, "-o", "json")
    return str(json.loads(listed)[0]["chart"])
