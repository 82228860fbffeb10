"""`python -m tests.cluster up|down|status|test`: `make cluster`, `cluster-down`, `cluster-status`, `test-cluster`."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import build
from tests.cluster.cluster import Cluster, HelmFailed
from tests.cluster.processes import StartFailed
from tests.cluster.release import Release

STATE = Path(os.environ.get("METACORE_CLUSTER_STATE", "/var/lib/metacore/cluster"))
NAMESPACE = "metacore"
NOTHING_CHOSEN = 5
"""pytest's exit code when no test was chosen."""
PROGRAMS = {
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "sysctl": "procps",
    "openssl": "openssl",
    "cc": "gcc libc6-dev",
    "umount": "mount",
}
"""Programs that a node needs, and the Debian packages that bring them."""

NEXT = """\

Metacore runs in the namespace {namespace}. Type next:

  export KUBECONFIG={kubeconfig}
  export PATH={binaries}:$PATH
  kubectl -n {namespace} get pods
  curl {url}/readyz

The registry is {registry}. README.md goes on from here under "On Kubernetes".
make cluster once more brings what you changed; make cluster-down takes everything away."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "test"])
    given, further = parser.parse_known_args()
    if further and given.command != "test":
        parser.error(f"unknown: {' '.join(further)}")
    try:
        need_root_on_linux()
        if given.command == "test":
            sys.exit(test(further))
        with locked():
            {"up": up, "down": down, "status": status}[given.command]()
    except (build.BuildFailed, StartFailed, HelmFailed, RuntimeError) as error:
        sys.exit(f"cluster: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"cluster: {' '.join(error.cmd[:8])}: {error.stderr}")


def need_root_on_linux() -> None:
    """Raises RuntimeError with what to do instead."""
    if os.geteuid() == 0 and sys.platform == "linux":
        return
    docker = shutil.which("docker") is not None
    raise RuntimeError(
        "a node without Docker needs root on Linux; "
        + ("make kind does the same with your Docker" if docker else "become root, or install Docker and use make kind")
    )


class locked:  # noqa: N801 - used as a statement.
    """Two commands on one cluster wait for each other."""

    def __enter__(self) -> None:
        STATE.parent.mkdir(parents=True, exist_ok=True)
        self._file = STATE.with_suffix(".lock").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def up() -> None:
    started = time.monotonic()
    cluster = running()
    release = Release(cluster, NAMESPACE)
    say(f"installing the chart with {cluster.image} …")
    # The definitions may be there already, from tests or from kubectl.
    release.install({}, "--take-ownership")
    node = cluster.node
    print(
        NEXT.format(
            namespace=NAMESPACE,
            kubeconfig=node.kubeconfig,
            binaries=node.binaries,
            url=release.url,
            registry=node.registry,
        )
    )
    say(f"ready after {time.monotonic() - started:.0f} s")


def running() -> Cluster:
    """The cluster of this machine, started if need be; no release is installed."""
    install_programs()
    cluster = Cluster(STATE, build.build())
    cluster.up()
    return cluster


def down() -> None:
    if (found := started()) is not None:
        found.down()


def status() -> None:
    if (found := started()) is None:
        raise RuntimeError("none runs; make cluster starts one")
    print(found.kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide"))


def test(arguments: Sequence[str]) -> int:
    """Run tests/cluster: two at a time, then those that disturb others; give pytest's exit code.

    A cluster that runs is used and stays; otherwise one is started and taken away.
    """
    existed = started() is not None
    with locked():
        cluster = running()
    try:
        codes = [
            subprocess.run([sys.executable, "-m", "pytest", "tests/cluster", *how, *arguments], check=False).returncode
            for how in (("-n", "2", "--dist", "loadfile", "-m", "not alone"), ("-n", "0", "-m", "alone"))
        ]
    finally:
        if not existed:
            with locked():
                cluster.down()
    failed = [code for code in codes if code not in (0, NOTHING_CHOSEN)]
    return failed[0] if failed else min(codes)


def started() -> Cluster | None:
    """The cluster that was started on this machine, or what is left of it, with its own programs."""
    record = STATE / "binaries"
    return Cluster(STATE, Path(record.read_text())) if record.exists() else None


def say(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)


def install_programs() -> None:
    """Install the Debian packages of programs that are missing.

    Raises:
        BuildFailed: there is no apt, or it fails.
    """
    missing = sorted(
        {package for program, needed in PROGRAMS.items() if shutil.which(program) is None for package in needed.split()}
    )
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
