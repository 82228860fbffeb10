"""Bundles from an OCI registry, pushed with oras: by tag, by digest, and with a login."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.addon_world import AddonWorld, signature_of
from tests.cluster.cluster import Cluster
from tests.cluster.registries import PASSWORD, PULLER, private_registry, pull_secret, push
from tests.tickets import SIGNING_KEY, make_bundle


def artifact(world: AddonWorld, **manifest: Any) -> tuple[bytes, bytes]:
    content = make_bundle(world.manifest(**manifest))
    return content, signature_of(content, SIGNING_KEY)


def oci(ref: str, **more: object) -> dict[str, object]:
    return {"oci": {"ref": ref, **more}}


def test_a_tag_is_installed_and_another_one_upgrades(cluster: Cluster, world: AddonWorld) -> None:
    repository = f"{cluster.node.registry}/addons/{world.key}"
    push(cluster.node, f"{repository}:1.0.0", *artifact(world))
    world.declare(source=oci(f"{repository}:1.0.0"))
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "first"})[0] == 201

    push(cluster.node, f"{repository}:1.1.0", *artifact(world, version="1.1.0"))
    world.declare(source=oci(f"{repository}:1.1.0"))
    world.until("jsonpath={.status.version}=1.1.0")
    world.until("condition=Ready")
    assert world.titles() == ["first"]


def test_a_digest_is_installed_whatever_becomes_of_the_tag(cluster: Cluster, world: AddonWorld) -> None:
    repository = f"{cluster.node.registry}/addons/{world.key}"
    digest = push(cluster.node, f"{repository}:latest", *artifact(world))
    push(cluster.node, f"{repository}:latest", *artifact(world, version="2.0.0"))
    world.declare(source=oci(f"{repository}@{digest}"))
    world.until("condition=Ready")
    assert world.status()["version"] == "1.0.0"


def test_a_digest_that_the_registry_does_not_have_is_named(cluster: Cluster, world: AddonWorld) -> None:
    repository = f"{cluster.node.registry}/addons/{world.key}"
    push(cluster.node, f"{repository}:1.0.0", *artifact(world))
    wrong = "sha256:" + "0f" * 32
    world.declare(source=oci(f"{repository}@{wrong}"))
    world.until("condition=Ready=False")
    ready = world.condition()
    assert ready["reason"] == "SourceUnavailable"
    assert wrong in ready["message"]


def test_a_registry_that_asks_for_a_login_gets_the_one_of_the_pull_secret(
    cluster: Cluster, world: AddonWorld, tmp_path: Path
) -> None:
    kind = "kubernetes.io/dockerconfigjson"
    with private_registry(cluster.node, tmp_path) as registry:
        login = ("--username", PULLER, "--password", PASSWORD)
        push(cluster.node, f"{registry}/addons/{world.key}:1", *artifact(world), login=login)
        source = oci(f"{registry}/addons/{world.key}:1")
        world.declare(source=source)
        world.until("condition=Ready=False")
        assert world.condition()["reason"] == "SourceUnavailable"
        assert registry in world.condition()["message"]
        assert "pullSecretRef" in world.condition()["message"]

        world.secret("login", kind, pull_secret(registry, "something else"))
        world.declare(source=oci(f"{registry}/addons/{world.key}:1", pullSecretRef={"name": "login"}))
        world.until("jsonpath={.status.observedGeneration}=2")
        world.until("condition=Ready=False")
        assert "something else" not in str(world.status())

        world.secret("login", kind, pull_secret(registry))
        world.until("condition=Ready")
        assert PASSWORD not in str(world.status())
    assert PASSWORD not in world.release.logs("operator")
