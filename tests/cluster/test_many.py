"""Two hundred Addons at once."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.addon_world import SIGNATURE, AddonWorld, signature_of
from tests.cluster.faults import peak_memory
from tests.tickets import SIGNING_KEY, make_bundle

COUNT = 200
PATIENCE = "900s"


def test_two_hundred_addons_applied_at_once_converge(new_release: Callable[..., AddonWorld]) -> None:
    world = new_release({"operator": {"replicas": 1}})
    keys = [f"many{number}" for number in range(COUNT)]
    documents: list[dict[str, Any]] = []
    for key in keys:
        content = make_bundle(world.manifest(key))
        entries = {"b": content, f"b{SIGNATURE}": signature_of(content, SIGNING_KEY)}
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": key, "labels": {"metacore.dev/allow": key}},
                "binaryData": {name: base64.b64encode(value).decode() for name, value in entries.items()},
            }
        )
    apply(world, documents)
    started = time.monotonic()
    apply(world, [world.addon(key, key) for key in keys])
    world.kubectl("wait", "--for=condition=Ready", "addons", "--all", f"--timeout={PATIENCE}")
    seconds = time.monotonic() - started
    assert len(world.kubectl("get", "addons", "-o", "name").split()) == COUNT

    (operator,) = world.release.pods("operator")
    kernels = world.release.pods("kernel")
    memory = {pod: f"{peak_memory(world, pod) / 2**20:.0f} MiB" for pod in (operator, *kernels)}
    print(f"{COUNT} Addons Ready after {seconds:.0f} s; most memory: {memory}")
    # The container's limit ends whoever goes beyond it. Short of CPU, an operator may lose its Lease: that is no leak.
    assert "OOMKilled" not in world.ended()
    for key in (keys[0], keys[-1]):
        status, answer = world.release.request("POST", f"/dynamic/{key}_items", {"title": key}, world.token)
        assert (status, answer["data"]["title"]) == (201, key)


def apply(world: AddonWorld, documents: list[dict[str, Any]]) -> None:
    whole = {"apiVersion": "v1", "kind": "List", "items": documents}
    world.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(whole))
