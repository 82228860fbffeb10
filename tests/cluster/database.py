"""The database server of a node: the embedded wheel's PostgreSQL, at an address that pods reach, as an external one."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from urllib.parse import quote

import asyncpg
from tests.cluster.node import Node
from tests.cluster.processes import StartFailed
from tests.conftest import DatabaseUrls

from metacore.db import postgres_binaries as binaries
from metacore.db.rls import quoted
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, prepare_database

PORT = 5432
SUPERUSER = "postgres"
START_SECONDS = 60
HERE = "/proc/self/cwd"
"""The data folder as the server names it: its user may often not walk there, but every process of it stands in it."""
SETTINGS = {
    "unix_socket_directories": "",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "400",
    "shared_buffers": "128MB",
    # The machine does not lose its power while it is tested; a killed server loses nothing of this.
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class ClusterDatabase:
    """A process of the node. Every release has a database of its own on it; the two roles are the same for all."""

    NAME = "postgresql"

    def __init__(self, node: Node) -> None:
        self._node = node
        self._folder = node.state / "postgresql"
        self._data = self._folder / "cluster"

    @property
    def address(self) -> str:
        return self._node.addresses.bridge

    def up(self) -> None:
        """Start the server, on new data the first time. Doing it again does nothing.

        Raises:
            StartFailed: it does not come up.
        """
        if self._node.processes.alive(self.NAME):
            return
        account = binaries.system_account()
        programs = binaries.find_binaries(account)
        if not self._data.exists():
            self._initialize(programs, account)
        # By our record nobody serves this folder. PostgreSQL would take one that is dead and not yet buried for alive.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        command = [*self._node.addresses.enter, *_as(account), str(programs / "postgres"), "-D", HERE, "-p", str(PORT)]
        for name, value in {"listen_addresses": self.address, **SETTINGS}.items():
            command += ["-c", f"{name}={value}"]
        self._node.processes.start(self.NAME, command, folder=self._data)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            self._node.processes.pid(self.NAME)
            if time.monotonic() > deadline:
                raise StartFailed(f"PostgreSQL is not ready:\n{self._node.processes.last_lines(self.NAME)}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would, and wait until its children noticed: they keep its shared memory until then."""
        self._node.processes.stop(self.NAME, kill=True)
        deadline = time.monotonic() + START_SECONDS
        while self._children():
            if time.monotonic() > deadline:
                raise StartFailed(f"processes of a killed PostgreSQL live on: {self._children()}")
            time.sleep(0.05)

    def _children(self) -> list[str]:
        """Processes that stand in the data folder, as all of a server do."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink() == self._data:
                    found.append(entry.name)
            except OSError:
                continue
        return found

    def make(self, database: str) -> DatabaseUrls:
        """Make an empty database, or find the one that is there, and give its URLs as pods and this host use them."""
        owner, kernel = self._password("owner"), self._password("kernel")
        superuser = self._url(SUPERUSER, self._password("superuser"), "postgres")
        _run(prepare_database(superuser, database=database, owner_password=owner, kernel_password=kernel))
        return DatabaseUrls(
            name=database,
            owner=self._url(OWNER_ROLE, owner, database),
            kernel=self._url(KERNEL_ROLE, kernel, database),
            superuser=superuser.rpartition("/")[0] + "/" + database,
        )

    def drop(self, database: str) -> None:
        _run(self._execute(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)"))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url(SUPERUSER, self._password("superuser"), "postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _initialize(self, programs: Path, account: binaries.Account | None) -> None:
        self._folder.mkdir(exist_ok=True)
        fresh = self._folder / "new"
        fresh.mkdir(mode=0o700)
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
        command = [*_as(account), str(programs / "initdb"), "-D", HERE, f"--username={SUPERUSER}"]
        command += ["--pwfile=/dev/stdin", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        reader, writer = os.pipe()
        if account is not None:
            os.fchown(reader, account.uid, account.gid)  # Opening /dev/stdin asks for the right to read the pipe.
        os.write(writer, f"{self._password('superuser')}\n".encode())
        os.close(writer)
        with os.fdopen(reader) as given:
            done = subprocess.run(command, stdin=given, cwd=fresh, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StartFailed(f"initdb failed: {done.stderr.strip()[-800:]}")
        with (fresh / "pg_hba.conf").open("a") as access:
            access.write("host all all all scram-sha-256\n")
        fresh.rename(self._data)

    def _password(self, role: str) -> str:
        """Made once, kept with the data."""
        path = self._folder / "passwords.json"
        self._folder.mkdir(exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(json.dumps({name: secrets.token_urlsafe(24) for name in ("superuser", "owner", "kernel")}))
        return str(json.loads(path.read_text())[role])

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{quote(password)}@{self.address}:{PORT}/{database}"

    def _ready(self) -> bool:
        """The server's own word: the eighth line of its postmaster.pid."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) == self._node.processes.pid(self.NAME)


def _as(account: binaries.Account | None) -> Sequence[str]:
    if account is None:
        return ()
    return ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]


def _run(work: Awaitable[None]) -> None:
    """Run `work` to its end, also from a thread beside a running loop."""

    async def whole() -> None:
        await work

    asyncio.run(whole())
