"""Long-lived processes of a cluster: started detached, recorded by id and start time, stopped by that record alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class StartFailed(Exception):
    """A process ended at once or never became ready; the message ends with the last lines of its log."""


class Processes:
    """Processes whose records live in `folder`, so another run can find and stop them."""

    def __init__(self, folder: Path) -> None:
        self.records = folder / "processes"
        self.logs = folder / "logs"

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start `command` in a session of its own, standing in `folder`; its output goes to `logs/<name>.log`."""
        self.records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        # The object would wait for its process when it is collected; these outlive the command that starts them.
        process.returncode = 0
        record = {"pid": process.pid, "started": _start_ticks(process.pid)}
        (self.records / f"{name}.json").write_text(json.dumps(record))

    def alive(self, name: str) -> bool:
        return self._pid(name) is not None

    def pid(self, name: str) -> int:
        """The id of a live process.

        Raises:
            StartFailed: it does not run.
        """
        found = self._pid(name)
        if found is None:
            raise StartFailed(f"{name} does not run; the end of its log:\n{self.last_lines(name)}")
        return found

    def last_lines(self, name: str, count: int = 15) -> str:
        log = self.logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "(no log)"

    def stop(self, name: str, *, seconds: float = 30, kill: bool = False) -> None:
        """End a process and wait until it is gone: politely for `seconds`, then by force."""
        pid = self._pid(name)
        if pid is not None:
            _signal(pid, signal.SIGKILL if kill else signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while self._pid(name) is not None:
                _reap(pid)
                if time.monotonic() > deadline:
                    _signal(pid, signal.SIGKILL)
                    deadline = time.monotonic() + seconds
                time.sleep(0.05)
        (self.records / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.records.glob("*.json")) if self.records.exists() else []

    def _pid(self, name: str) -> int | None:
        path = self.records / f"{name}.json"
        if not path.exists():
            return None
        record = json.loads(path.read_text())
        # Ids are given again: only the start time tells that this is still our process.
        return int(record["pid"]) if _start_ticks(record["pid"]) == record["started"] != 0 else None


def _start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it is gone or a zombie (proc(5), stat field 22).

    A process whose first thread is a zombie holds its sockets until the last thread has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ended = fields[0] in ("Z", "X") and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if ended else int(fields[19])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
