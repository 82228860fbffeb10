"""What a node leaves in the kernel: control groups, processes, mounts. Found by the names that are that node's alone.

A node that ended well leaves none of it. One that was killed leaves shims and pods that no record names; they are in
the node's network namespace or below its control group, and nothing else is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
UNIFIED = CONTROL_GROUPS / "cgroup.controllers"
SHIM_SOCKETS = Path("/run/containerd/s")
KILL_SECONDS = 20
CPU_WEIGHTS = {"cpu.shares": "8192", "cpu.weight": "800"}
"""Eight times the usual, in the terms of either hierarchy: on a busy machine all pods together would otherwise get as
much as one other process."""


def make_control_groups(name: str) -> None:
    """Make the group `/name` in every hierarchy; a kubelet takes only a root that exists."""
    if UNIFIED.exists():
        for controller in UNIFIED.read_text().split():
            try:
                (CONTROL_GROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:
                continue  # The kubelet says which one it misses, if it does.
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
        for file, value in CPU_WEIGHTS.items():
            if (hierarchy / name / file).exists():
                (hierarchy / name / file).write_text(value)


def end_processes(name: str, namespace: Path) -> None:
    """Kill what is below the control group `name` or in the network `namespace`, and wait until it is gone."""
    deadline = time.monotonic() + KILL_SECONDS
    while found := [*_grouped(name), *_networked(namespace)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of {name} do not end: {sorted(found)}")
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove_control_groups(name: str) -> None:
    for hierarchy in _hierarchies():
        for folder in sorted((hierarchy / name).rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        if (hierarchy / name).exists():
            (hierarchy / name).rmdir()


def remove_sockets(state: Path) -> None:
    """Remove the sockets of shims. They are the one thing that containerd keeps in a place that cannot be chosen."""
    for record in state.glob("run/containerd/io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        socket = Path(json.loads(record.read_text())["address"].removeprefix("unix://"))
        socket.unlink(missing_ok=True)
    for folder in (SHIM_SOCKETS, SHIM_SOCKETS.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if path.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)


def _hierarchies() -> list[Path]:
    if UNIFIED.exists():
        return [CONTROL_GROUPS]
    return [path for path in CONTROL_GROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _grouped(name: str) -> Iterator[int]:
    for hierarchy in _hierarchies():
        for file in (hierarchy / name).rglob("cgroup.procs"):
            yield from map(int, file.read_text().split())


def _networked(namespace: Path) -> Iterator[int]:
    if not namespace.exists():
        return
    wanted = namespace.stat()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found = (entry / "ns" / "net").stat()
                ended = (entry / "stat").read_text().rpartition(") ")[2].startswith(("Z", "X"))
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) and not ended:
                yield int(entry.name)
