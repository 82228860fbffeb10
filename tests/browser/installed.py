"""The browser of the tests: Chromium as the machine has it, or as Debian packages it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCK = Path(tempfile.gettempdir()) / "metacore-tests-chromium.lock"
COMMANDS = (
    ("apt-get", "update", "-qq"),
    ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"),
)


def chromium_path() -> str:
    """Where Chromium is. As root on Debian it is installed when it is missing.

    Raises:
        RuntimeError: there is none, and it cannot be installed; the message says what to do.
    """
    found = _found()
    if found:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(
            "the tests in tests/browser need Chromium: install it (on Debian and Ubuntu: sudo apt-get install chromium)"
            f" so that one of {', '.join(NAMES)} is on the PATH"
        )
    # Several workers of one run come here at once; dpkg takes one at a time.
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _found() or _install()


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def _install() -> str:
    for command in COMMANDS:
        ran = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {ran.stdout[-500:]}{ran.stderr[-1_500:]}")
    found = _found()
    if found is None:
        raise RuntimeError("apt-get installed the package chromium, but there is no chromium on the PATH")
    return found
