"""`python -m tests.cluster up|down|status`: what `make cluster` and `make cluster-down` run."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster import build, images
from tests.cluster.node import Node
from tests.cluster.processes import StartFailed

STATE = Path(os.environ.get("METACORE_CLUSTER_STATE", "/var/lib/metacore/cluster"))
PROGRAMS = {
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "openssl": "openssl",
    "cc": "gcc",
}
"""Programs that a node needs, and the Debian packages that bring them."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    command = parser.parse_args().command
    if os.geteuid() != 0 or sys.platform != "linux":
        sys.exit("cluster: a node without Docker needs root on Linux; with Docker, use make kind")
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with STATE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            {"up": up, "down": down, "status": status}[command]()
        except (build.BuildFailed, StartFailed, RuntimeError) as error:
            sys.exit(f"cluster: {error}")


def up() -> None:
    install_programs()
    node = Node(STATE, build.build())
    node.up()
    images.import_sandbox(node)
    print(f"export KUBECONFIG={node.kubeconfig}")
    print(f"export PATH={node.binaries}:$PATH")
    print(f"registry: {node.registry}")


def down() -> None:
    Node(STATE, build.build(say=False)).down()


def status() -> None:
    node = Node(STATE, build.build(say=False))
    if not node.exists:
        sys.exit("cluster: none runs; make cluster starts one")
    print(node.kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide"))


def install_programs() -> None:
    """Install the Debian packages of programs that are missing.

    Raises:
        BuildFailed: there is no apt, or it fails.
    """
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise build.BuildFailed(f"install these first: {', '.join(missing)}")
    print(f"cluster: installing {', '.join(missing)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and command[1] == "install":
            raise build.BuildFailed(f"apt-get could not install {', '.join(missing)}:\n{done.stderr.strip()[-800:]}")


if __name__ == "__main__":
    main()
