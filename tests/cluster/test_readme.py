"""What the README says about Kubernetes, typed line by line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.addon_world import AddonWorld
from tests.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]


def typed(readme: str) -> str:
    """The commands of the section, without what takes the cluster away."""
    section = readme.partition("## On Kubernetes\n")[2].partition("\n## ")[0]
    blocks = section.split("```sh\n")[1:]
    (commands,) = (block.partition("```")[0] for block in blocks if "kubectl" in block)
    first, *rest, last = commands.strip().splitlines()
    assert first.startswith("NAMESPACE=metacore REGISTRY=")
    assert last == "make cluster-down"
    return "\n".join(rest)


def test_the_section_on_kubernetes(cluster: Cluster, new_release: Callable[..., AddonWorld], tmp_path: Path) -> None:
    world = new_release({"trust": {"keys": None}, "enforce": None})
    home = tmp_path / "checkout"
    home.mkdir()
    for name in (".venv", "charts"):
        (home / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "examples" / "addons" / "tickets", home / "examples" / "addons" / "tickets")
    commands = typed((ROOT / "README.md").read_text())
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=home,
        env={
            "PATH": f"{cluster.node.binaries}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "KUBECONFIG": str(cluster.node.kubeconfig),
            "NAMESPACE": world.namespace,
            "REGISTRY": cluster.node.registry,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{world.release.described()}"
    assert "condition met" in done.stdout
    assert done.stdout.count("Printer on fire") == 2
    assert "enforce" in done.stdout
    assert world.kubectl("get", "addons", "-o", "name") == ""
