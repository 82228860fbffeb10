"""Sources that are away, lie or are far too large: a condition that names what and where, and nobody else is harmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from tests.cluster.addon_world import AddonWorld, signature_of
from tests.cluster.cluster import Cluster
from tests.cluster.registries import push, reply, server
from tests.cluster.release import BROKEN_PORT
from tests.tickets import SIGNING_KEY, make_bundle

GIGABYTES_5 = 5 * 1024**3
BLOCK = bytes(1024 * 1024)
SHA256 = "0f" * 32


@pytest.fixture(autouse=True)
def unharmed(world: AddonWorld) -> Iterator[None]:
    """Another Addon gets Ready beside the bad one, and no container was started again."""
    before = world.restarts()
    yield
    other = f"{world.key}o"
    world.bundle("other", allow=other, key=other)
    world.declare("other", other)
    world.until("condition=Ready", other)
    assert world.restarts() == before


def test_a_registry_that_is_away_is_asked_again_until_it_is_there(cluster: Cluster, world: AddonWorld) -> None:
    content = make_bundle(world.manifest())
    registry = f"{cluster.node.addresses.host}:{BROKEN_PORT}"
    world.declare(source={"oci": {"ref": f"{registry}/addons/{world.key}:1"}})
    world.until("condition=Ready=False")
    ready = world.condition()
    assert ready["reason"] == "SourceUnavailable"
    assert registry in ready["message"]
    assert world.condition("Reconciling")["status"] == "True"
    assert world.condition("Stalled").get("status") != "True"
    assert world.events().count("SourceUnavailable") == 1

    push(cluster.node, f"{cluster.node.registry}/addons/{world.key}:1", content, signature_of(content, SIGNING_KEY))

    def forward(request: BaseHTTPRequestHandler) -> None:
        """Send the operator to the registry that has it."""
        request.send_response(307)
        request.send_header("Location", f"http://{cluster.node.registry}{request.path}")
        request.send_header("Content-Length", "0")
        request.end_headers()

    with server(cluster.node, forward):
        world.until("condition=Ready")


def test_five_gigabytes_are_not_read(cluster: Cluster, world: AddonWorld) -> None:
    sent = [0]

    def endless(request: BaseHTTPRequestHandler) -> None:
        if request.path.endswith(".sig.json"):
            reply(request, 404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(GIGABYTES_5))
        request.end_headers()
        for _ in range(GIGABYTES_5 // len(BLOCK)):
            request.wfile.write(BLOCK)
            sent[0] += len(BLOCK)

    with server(cluster.node, endless) as host:
        world.declare(source={"http": {"url": f"http://{host}/huge.tar.gz", "sha256": SHA256}})
        world.until("condition=Stalled")
        ready = world.condition()
        assert ready["reason"] == "SourceRefused"
        assert "/huge.tar.gz" in ready["message"]
        assert "larger than" in ready["message"]
    assert sent[0] < GIGABYTES_5 / 10


def test_a_manifest_of_a_registry_without_end_is_not_read(cluster: Cluster, world: AddonWorld) -> None:
    manifest = json.dumps({"schemaVersion": 2, "layers": [], "annotations": {"a": "b" * 8_000_000}}).encode()
    with server(cluster.node, lambda request: reply(request, 200, manifest)) as host:
        world.declare(source={"oci": {"ref": f"{host}/addons/{world.key}:1"}})
        world.until("condition=Stalled")
        assert world.condition()["reason"] == "SourceRefused"
        assert "larger than" in world.condition()["message"]


def test_a_bundle_with_a_huge_manifest_is_refused(cluster: Cluster, world: AddonWorld) -> None:
    manifest = world.manifest()
    manifest["metadata"]["description"] = "x" * 60_000_000
    content = make_bundle(manifest)
    repository = f"{cluster.node.registry}/addons/{world.key}"
    push(cluster.node, f"{repository}:1", content, signature_of(content, SIGNING_KEY))
    world.declare(source={"oci": {"ref": f"{repository}:1"}})
    world.until("condition=Stalled")
    assert world.condition()["reason"] == "BundleInvalid"
    assert "manifest: is larger than" in world.condition()["message"]


def test_a_bundle_that_is_not_the_pinned_one_is_refused(world: AddonWorld) -> None:
    world.bundle("one")
    world.declare("one", digest=SHA256)
    world.until("condition=Stalled")
    assert world.condition()["reason"] == "DigestMismatch"
    assert SHA256[:12] in world.condition()["message"]


def test_an_organization_that_is_not_there_is_named_and_found_once_it_is(world: AddonWorld) -> None:
    later = f"{world.organization} later"
    world.bundle("one")
    world.declare("one", organizations={"names": [world.organization, later]})
    world.until("condition=Ready=False")
    assert world.condition()["reason"] == "OrganizationsMissing"
    assert later in world.condition()["message"]
    world.release.register(later)
    world.until("condition=Ready")


@pytest.mark.parametrize("what", ["configmap", "secret", "not allowed"])
def test_what_an_addon_names_and_is_not_there_is_named(cluster: Cluster, world: AddonWorld, what: str) -> None:
    reference = f"{cluster.node.registry}/addons/{world.key}:1"
    if what == "secret":
        world.declare(source={"oci": {"ref": reference, "pullSecretRef": {"name": "absent"}}})
    else:
        if what == "not allowed":
            world.bundle("absent", allow="somebody-else")
        world.declare("absent")
    world.until("condition=Ready=False")
    assert world.condition()["reason"] == "SourceUnavailable"
    assert "absent" in world.condition()["message"]
