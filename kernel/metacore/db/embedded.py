"""The PostgreSQL that ships inside a wheel, run on a data folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from metacore.db import postgres_binaries as binaries
from metacore.errors import Misconfigured, Unavailable

HOST = "127.0.0.1"
SUPERUSER = "postgres"
START_SECONDS = 60
STOP_SECONDS = 30
POLL_SECONDS = 0.02
LOG_LIMIT = 10 * 1024 * 1024

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "cluster_name": "metacore",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedServer:
    """A PostgreSQL server on `data`, for as long as `async with` lasts.

    `data` belongs to the server alone: `cluster/` (PostgreSQL's own files), `superuser` (its password, 0600), `port`
    (kept from start to start while it is free), `server.log` and `lock`. It listens on 127.0.0.1 only and asks every
    role for a password. When a process died without stopping its server, the next start on the same folder ends the
    orphan first.

    `extra_settings` are PostgreSQL settings such as `{"fsync": "off"}` for tests.
    """

    def __init__(self, data: Path, *, extra_settings: Mapping[str, str] | None = None) -> None:
        self.data = data.expanduser().absolute()
        self.port = 0
        self._settings = {**SETTINGS, **(extra_settings or {})}
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def superuser_url(self) -> str:
        return self.url(SUPERUSER, self._password, "postgres")

    @property
    def process_id(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{HOST}:{self.port}/{quote(database)}"

    async def start(self) -> None:
        """Make the cluster when there is none, and run it. Starting a running server does nothing.

        Raises:
            Misconfigured: the wheel is missing, another process serves this folder, or the folder cannot be used.
            Unavailable: PostgreSQL did not come up; the message ends with what it logged.
        """
        try:
            await _uninterrupted(self._start)
        except asyncio.CancelledError:
            await _uninterrupted(self._stop)
            raise

    async def stop(self) -> None:
        """End the server cleanly (open connections are closed). Stopping a stopped server does nothing."""
        await _uninterrupted(self._stop)

    def _start(self) -> None:
        if self._lock is not None:
            return
        account = binaries.system_account()
        programs = binaries.find_binaries(account)
        try:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _take_lock(self.data / "lock")
            self._end_orphan()
            if not self._cluster.exists():
                self._make_cluster(programs, account)
            self._password = (self.data / "superuser").read_text().strip()
            self._check_version()
            self._run(programs, account)
        except OSError as error:
            self._stop()
            raise Misconfigured(f"the data folder {self.data} cannot be used: {error}") from error
        except BaseException:
            self._stop()
            raise

    @property
    def _cluster(self) -> Path:
        return self.data / "cluster"

    @property
    def _log(self) -> Path:
        return self.data / "server.log"

    def _make_cluster(self, programs: Path, account: binaries.Account | None) -> None:
        """Build beside the final place and rename: a start that was killed leaves nothing half-made, and the initdb
        that it may have left running writes to a folder that is no more."""
        for leftover in self.data.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        cluster = Path(tempfile.mkdtemp(prefix=".new-", dir=self.data))
        if account is not None:
            os.chown(cluster, account.uid, account.gid)
        password = secrets.token_urlsafe(24)
        password_file = self.data / "superuser"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(password + "\n")
        command = [str(programs / "initdb"), "-D", _shown_to(account, cluster), f"--username={SUPERUSER}"]
        command += ["--pwfile=/dev/stdin", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        _run_initdb(command, password, cluster, account)
        cluster.rename(self._cluster)

    def _check_version(self) -> None:
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != str(binaries.MAJOR_VERSION):
            raise Misconfigured(
                f"{self.data} was made by PostgreSQL {version}, the installed one is {binaries.MAJOR_VERSION}: "
                "dump it with the old one and load it into a new folder"
            )

    def _run(self, programs: Path, account: binaries.Account | None) -> None:
        """Start until it holds: the port may be taken in between, and after a kill the children of the old server
        keep its shared memory for a moment."""
        deadline = time.monotonic() + START_SECONDS
        port_file = self.data / "port"
        kept = port_file.read_text().strip() if port_file.exists() else ""
        self.port = _free_port(int(kept) if kept.isdigit() else 0)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.old"))
        while True:
            offset = self._log.stat().st_size if self._log.exists() else 0
            if self._started(programs, account, deadline):
                break
            said = _tail(self._log, offset)
            if "could not bind" in said:
                self.port = _free_port(0)
            elif "shared memory block" not in said or time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL did not start: {said.strip()[-600:] or 'it said nothing'}")
            time.sleep(POLL_SECONDS)
        port_file.write_text(f"{self.port}\n")

    def _started(self, programs: Path, account: binaries.Account | None, deadline: float) -> bool:
        command = [str(programs / "postgres"), "-D", _shown_to(account, self._cluster), "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self._log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
            # A session of its own: Ctrl-C in the terminal is for us, who close connections first and stop it then.
            self._process = subprocess.Popen(  # noqa: S603 - a program of the wheel, arguments of ours.
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_as(account, self._cluster),
            )
        while self._process.poll() is None:
            if _status(self._cluster, self._process.pid) == "ready":
                return True
            if time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL was not ready after {START_SECONDS} s; see {self._log}")
            time.sleep(POLL_SECONDS)
        self._process = None
        return False

    def _end_orphan(self) -> None:
        """We hold the folder's lock, so a server that still runs here belongs to a process that is gone."""
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if not _serves(pid, self._cluster):
            pid_file.unlink(missing_ok=True)  # A leftover; its number may be another program's by now.
            return
        _end(pid, lambda: not _serves(pid, self._cluster))

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            _end(process.pid, lambda: process.poll() is not None)
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


async def _uninterrupted(work: Callable[[], None]) -> None:
    """Run `work` in a thread to its end, also when the caller is cancelled meanwhile."""
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def _take_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise Misconfigured(
            f"the data folder {path.parent} is in use by process {holder}", code="data_in_use"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _as(account: binaries.Account | None, cluster: Path) -> dict[str, Any]:
    """How a program starts as `account`. It enters `cluster` while it still is this process's user."""
    if account is None:
        return {"cwd": cluster}
    return {"cwd": cluster, "user": account.uid, "group": account.gid, "extra_groups": ()}


def _shown_to(account: binaries.Account | None, cluster: Path) -> str:
    """The data folder as the program names it. The system user often may not walk there (below /root, or in a private
    temporary folder); every process of a server stands in its data folder, so that name always works."""
    return str(cluster) if account is None else "/proc/self/cwd"


def _run_initdb(command: Sequence[str], password: str, cluster: Path, account: binaries.Account | None) -> None:
    reader, writer = os.pipe()
    try:
        if account is not None:
            os.fchown(reader, account.uid, account.gid)  # Opening /dev/stdin asks for the right to read the pipe.
        os.write(writer, f"{password}\n".encode())
        os.close(writer)
        result = subprocess.run(  # noqa: S603 - a program of the wheel, arguments of ours.
            command, stdin=reader, capture_output=True, text=True, check=False, **_as(account, cluster)
        )
    finally:
        os.close(reader)
    if result.returncode != 0:
        raise Unavailable(f"initdb failed: {(result.stderr or result.stdout).strip()[-600:]}")


def _free_port(wanted: int) -> int:
    """`wanted` when it is free, else one that the system picks."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable(f"no free TCP port on {HOST}")


def _status(cluster: Path, pid: int) -> str:
    """The server's own word on its state: the eighth line of postmaster.pid, if that file is of process `pid`."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return lines[7].strip() if len(lines) > 7 and lines[0] == str(pid) else ""


def _serves(pid: int, cluster: Path) -> bool:
    """Whether process `pid` is a PostgreSQL on `cluster`; a server's working folder is its data folder."""
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == cluster.resolve()
        except OSError:
            return False
    listing = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(cluster) in listing.stdout


def _end(pid: int, ended: Callable[[], bool]) -> None:
    """Fast shutdown; when that takes too long, the immediate one, then by force."""
    for number, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while not ended():
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        else:
            return
    raise Unavailable(f"the embedded PostgreSQL (process {pid}) does not end")


def _tail(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
