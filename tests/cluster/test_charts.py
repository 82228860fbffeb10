"""What the chart renders is taken by a real API server, whatever its values, under the restricted profile."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from tests.chart import value_sets
from tests.chart.rendering import render
from tests.cluster.cluster import Cluster

FOREIGN = {"monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"}
"""Kinds of Prometheus' operator and of the Gateway API, which this cluster does not have."""
BEYOND = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
"""Kinds that are in no namespace."""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"charts-{uuid.uuid4().hex[:6]}"
    others = ("shared", "backstage", "team-a", "team-b")
    cluster.namespaces(name, *others)
    yield name
    cluster.kubectl("delete", "namespace", name, *others, "--wait=false")


@pytest.mark.parametrize("name", value_sets.ALL)
def test_the_api_server_takes_it(cluster: Cluster, namespace: str, name: str) -> None:
    objects = render(value_sets.ALL[name], namespace=namespace)
    ours = [item for item in objects if item["apiVersion"] not in FOREIGN]
    assert len(ours) > 10
    for item in ours:
        if item["kind"] not in BEYOND:
            item["metadata"].setdefault("namespace", namespace)
    stdin = "\n---\n".join(json.dumps(item) for item in ours)
    told = subprocess.run(
        [
            *(str(cluster.node.binaries / "kubectl"), "--kubeconfig", str(cluster.node.kubeconfig)),
            *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"),
            *("-f", "-"),
        ],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    # A pod that the profile would refuse is only warned about when its Deployment is applied.
    assert "PodSecurity" not in told.stderr, told.stderr
    assert told.stdout.count("serverside-applied (server dry run)") == len(ours)
