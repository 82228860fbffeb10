"""A node with everything that a release needs: the project's image in its registry and a database server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.cluster import images
from tests.cluster.database import ClusterDatabase
from tests.cluster.node import Node

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "metacore"
DEFINITIONS = sorted((ROOT / "crds").glob("*.yaml"))


class HelmFailed(Exception):
    """What helm said."""


class Cluster:
    def __init__(self, state: Path, binaries: Path, *, say: Callable[[str], None] | None = None) -> None:
        self.node = Node(state, binaries, say=say)
        self.database = ClusterDatabase(self.node)
        self._say = say or self.node.say
        self._image = ""

    @property
    def image(self) -> str:
        """`registry/metacore:<tag>` of the sources as they are, in the node's registry."""
        if not self._image:
            self._image = images.project_image(self.node, self._say)
        return self._image

    def up(self) -> None:
        """Start node and database, or do nothing when they run.

        Raises:
            StartFailed, BuildFailed: what did not start, with the end of its log.
        """
        self.node.up()
        images.import_sandbox(self.node)
        self.database.up()

    def down(self) -> None:
        self.node.down()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.node.kubectl(*arguments, stdin=stdin)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Server-side apply, taking over what somebody else set."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def namespaces(self, *names: str) -> None:
        """Make namespaces under the restricted profile of Pod Security."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name in names)
        )

    def define(self) -> None:
        """Install the CustomResourceDefinitions as they are in this checkout."""
        for path in DEFINITIONS:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
        self.kubectl("wait", "--for=condition=Established", "crd/addons.metacore.dev", "--timeout=60s")

    def helm(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Run helm as the administrator. It sees no configuration of this machine.

        Raises:
            HelmFailed: with what it wrote to standard error.
        """
        home = self.node.state / "helm"
        given = ["--values", "-"] if values is not None else []
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(self.node.kubeconfig),
        }
        done = subprocess.run(
            [str(self.node.binaries / "helm"), *arguments, *given],
            input=yaml.safe_dump(dict(values)) if values is not None else None,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
