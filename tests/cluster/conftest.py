"""A real cluster for every test that asks: started once for a run, or the one that `make cluster` left running.

`world` is what most tests need: a namespace, an organization and an addon key of their own on a release that the whole
run shares. Tests that break things take `new_release`, which is theirs alone.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from tests.cluster.__main__ import STATE, locked, need_root_on_linux, running
from tests.cluster.addon_world import AddonWorld
from tests.cluster.cluster import Cluster
from tests.cluster.node import Node
from tests.cluster.release import Release
from tests.tickets import SIGNING_KEY

NAMESPACES = 40
"""How many tests of one run may share the release; an operator cannot be told of more without a restart."""

TRUST = [bytes(SIGNING_KEY.verify_key).hex()]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Node, registry and database server; the definitions are installed, no release is."""
    need_root_on_linux()
    existed = (STATE / "index").exists()
    with locked():
        found = running()
    found.define()
    try:
        yield found
    finally:
        if not existed:
            with locked():
                found.down()


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Node:
    return cluster.node


@pytest.fixture(scope="session")
def shared_namespaces() -> list[str]:
    run = uuid.uuid4().hex[:6]
    return [f"shared-{run}-{number}" for number in range(NAMESPACES)]


@pytest.fixture(scope="session")
def unused_namespaces(shared_namespaces: list[str]) -> Iterator[str]:
    return iter(shared_namespaces)


@pytest.fixture(scope="session")
def release(cluster: Cluster, shared_namespaces: list[str]) -> Iterator[Release]:
    """The release that tests share. Nothing in it is restarted, broken or set otherwise."""
    cluster.namespaces(*shared_namespaces)
    found = Release(cluster, shared_namespaces[0].rpartition("-")[0])
    tenancy = [{"namespaces": shared_namespaces, "organizations": ["*"]}]
    values = {
        "crds": {"install": False},
        "trust": {"keys": TRUST},
        "operator": {"watch": {"namespaces": shared_namespaces}, "tenancy": tenancy},
    }
    try:
        found.install(values)
        yield found
    finally:
        found.uninstall()
        cluster.kubectl("delete", "namespace", *shared_namespaces, "--wait=false")


numbers = itertools.count(1)


@pytest.fixture
def world(release: Release, unused_namespaces: Iterator[str]) -> Iterator[AddonWorld]:
    """A namespace, an organization and an addon of this test on the shared release."""
    number = next(numbers)
    found = AddonWorld(release, next(unused_namespaces), key=f"addon{number}", organization=f"Acme {number}")
    found.register()
    yield found
    found.kubectl("delete", "addons", "--all", "--timeout=90s")


@pytest.fixture
def new_release(cluster: Cluster) -> Iterator[Callable[..., AddonWorld]]:
    """Install a release of this test alone: `new_release(values)` gives the world in its own namespace."""
    with ExitStack() as stack:

        def install(values: Mapping[str, Any] | None = None, **given: Any) -> AddonWorld:
            found = Release(cluster, f"own-{uuid.uuid4().hex[:8]}")
            stack.callback(found.uninstall)
            found.install({"crds": {"install": False}, "trust": {"keys": TRUST}, **(values or {})}, **given)
            world = AddonWorld(found, found.namespace, key=f"addon{next(numbers)}", organization="Acme")
            world.register()
            return world

        yield install
