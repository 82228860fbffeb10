"""A node of its own beside the one that runs: it ends without a trace, also when it did not end well."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.network import NAMESPACES
from tests.cluster.remains import CONTROL_GROUPS

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "sleeper", "namespace": "default"},
    "spec": {
        "containers": [{"name": "c", "image": "metacore.local/pause:1", "imagePullPolicy": "Never"}],
        "automountServiceAccountToken": False,
    },
}


def traces(name: str, state: Path) -> dict[str, list[str]]:
    """Everything on this machine that belongs to the node called `name`, or lies below its state folder."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    processes = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(state) in (entry / "cmdline").read_text():
                processes.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    number = name.partition("-")[2]
    links = [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(f"mcore{number}h")]
    routes = [line for line in Path("/proc/net/route").read_text().splitlines() if line.split()[0] == f"mcore{number}h"]
    return {
        "mounts": [mount for mount in mounts if mount.startswith(str(state))],
        "processes": processes,
        "namespaces": [str(path) for path in NAMESPACES.glob(name)],
        "control groups": [str(path) for path in CONTROL_GROUPS.rglob(name)],
        "interfaces": links,
        "routes": routes,
        "folders": [str(state)] if state.exists() else [],
    }


@pytest.fixture
def other(cluster: Cluster) -> Iterator[Cluster]:
    """A second cluster with a pod on it. Its folder has a short name, for sockets lie in it (unix(7): 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    found = Cluster(folder / "state", cluster.node.binaries)
    try:
        found.up()
        found.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        found.apply(POD)
        found.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=120s")
        yield found
    finally:
        found.down()
        shutil.rmtree(folder)


def test_it_ends_without_a_trace(cluster: Cluster, other: Cluster) -> None:
    name = other.node.addresses.name
    assert name != cluster.node.addresses.name
    before = traces(name, other.node.state)
    assert all(before.values()), before
    other.down()
    assert not any(traces(name, other.node.state).values())
    assert cluster.kubectl("get", "nodes", "-o", "name") == "node/metacore-node\n"


def test_the_remains_of_one_that_was_killed_are_cleaned_by_the_next_start(cluster: Cluster, other: Cluster) -> None:
    name = other.node.addresses.name
    for process in other.node.processes.names():
        os.kill(other.node.processes.pid(process), signal.SIGKILL)
    assert traces(name, other.node.state)["processes"], "the pod and its shim outlive the runtime"
    other.up()
    assert other.kubectl("get", "pods", "-o", "name") == ""
    second = other.node.addresses.name
    other.down()
    for left in (name, second):
        assert not any(traces(left, other.node.state).values())
    assert cluster.kubectl("get", "nodes", "-o", "name") == "node/metacore-node\n"


def test_starting_a_running_one_again_does_nothing(other: Cluster) -> None:
    before = {name: other.node.processes.pid(name) for name in other.node.processes.names()}
    other.up()
    assert {name: other.node.processes.pid(name) for name in other.node.processes.names()} == before
