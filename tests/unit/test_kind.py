"""`make kind`, with Docker, kind, kubectl and helm played by a script that writes down how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.kind import PROGRAMS, REGISTRY_ADDRESS

ROOT = Path(__file__).parents[2]
PLAYER = """#!{python}
import json, os, sys
name = os.path.basename(sys.argv[0])
stdin = sys.stdin.read() if "-" in sys.argv or "/dev/stdin" in sys.argv else ""
with open({log!r}, "a") as log:
    print(json.dumps([name, *sys.argv[1:], stdin]), file=log)
answers = {answers!r}
line = " ".join([name, *sys.argv[1:]])
for beginning, (code, answer) in answers.items():
    if line.startswith(beginning):
        (sys.stderr if code else sys.stdout).write(answer)
        sys.exit(code)
"""
KIND_KEYS = {"kind", "apiVersion", "name", "nodes", "containerdConfigPatches", "networking", "featureGates"}
NODE_KEYS = {"role", "image", "extraMounts", "extraPortMappings", "labels", "kubeadmConfigPatches"}


def played(folder: Path, command: str, answers: dict[str, tuple[int, str]]) -> tuple[Any, list[list[str]]]:
    log = folder / "log"
    log.touch()
    for name in PROGRAMS:
        path = folder / name
        path.write_text(PLAYER.format(python=sys.executable, log=str(log), answers=answers))
        path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.kind", command],
        cwd=ROOT,
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [json.loads(line) for line in log.read_text().splitlines()]


def test_the_first_time_it_makes_everything(tmp_path: Path) -> None:
    done, calls = played(tmp_path, "up", {"kind get nodes": (0, "metacore-control-plane\n")})
    assert done.returncode == 0, done.stderr
    said = [" ".join(call[:-1]) for call in calls]
    (create,) = (line for line in said if line.startswith("kind create cluster"))
    assert f"--config {ROOT}/charts/kind/cluster.yaml" in create
    (registry,) = (line for line in said if line.startswith("docker run"))
    assert f"--publish 127.0.0.1:{REGISTRY_ADDRESS.partition(':')[2]}:5000" in registry
    (build,) = (line for line in said if line.startswith("docker build"))
    (push,) = (line for line in said if line.startswith("docker push"))
    (helm,) = (line for line in said if line.startswith("helm"))
    image = push.split()[-1]
    assert image.startswith(f"{REGISTRY_ADDRESS}/metacore:")
    assert f"--tag {image} {ROOT}" in build
    assert f"--set-string image.tag={image.rpartition(':')[2]}" in helm
    assert f"--values {ROOT}/charts/kind/values.yaml" in helm
    assert said.index(build) < said.index(push) < said.index(helm)
    (hosting,) = (yaml.safe_load(call[-1]) for call in calls if call[0] == "kubectl")
    assert hosting["metadata"] == {"name": "local-registry-hosting", "namespace": "kube-public"}
    assert "kubectl config use-context kind-metacore" in done.stdout


def test_the_second_time_it_only_builds_and_upgrades(tmp_path: Path) -> None:
    answers = {"kind get clusters": (0, "metacore\n"), "docker ps": (0, "metacore-registry\n")}
    done, calls = played(tmp_path, "up", answers)
    assert done.returncode == 0, done.stderr
    said = [" ".join(call[:3]) for call in calls]
    assert not [line for line in said if line.startswith(("kind create", "docker run", "docker rm"))]
    assert [call[0] for call in calls][-3:] == ["docker", "docker", "helm"]


def test_down_takes_the_cluster_and_the_registry_away(tmp_path: Path) -> None:
    done, calls = played(tmp_path, "down", {})
    assert done.returncode == 0
    assert [call[:3] for call in calls] == [["kind", "delete", "cluster"], ["docker", "rm", "--force"]]


def test_what_fails_is_said_in_the_programs_words(tmp_path: Path) -> None:
    done, _ = played(tmp_path, "up", {"kind get clusters": (1, "Cannot connect to the Docker daemon")})
    assert done.returncode == 1
    assert done.stderr.strip() == "kind: kind get clusters: Cannot connect to the Docker daemon"


@pytest.mark.parametrize("missing", PROGRAMS)
def test_a_missing_program_is_named(tmp_path: Path, missing: str) -> None:
    played(tmp_path, "down", {})
    (tmp_path / missing).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.kind", "up"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"not on PATH: {missing};" in done.stderr


def test_the_configuration_is_one_that_kind_reads() -> None:
    cluster = yaml.safe_load((ROOT / "charts" / "kind" / "cluster.yaml").read_text())
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert set(cluster) <= KIND_KEYS
    assert [node["role"] for node in cluster["nodes"]].count("control-plane") == 1
    assert all(set(node) <= NODE_KEYS for node in cluster["nodes"])
