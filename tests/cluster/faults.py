"""Breaking things on purpose: containers killed, steps of an installation held still, and traffic meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import asyncpg
from tests.cluster.addon_world import AddonWorld
from tests.cluster.remains import CONTROL_GROUPS, UNIFIED

PATIENT_SECONDS = 120
WRITERS = 3


def container(world: AddonWorld, pod: str) -> str:
    """The id of a pod's one running container."""
    status = json.loads(world.release.kubectl("get", "pod", pod, "-o", "json"))["status"]
    return str(status["containerStatuses"][0]["containerID"]).removeprefix("containerd://")


def kill(world: AddonWorld, pod: str) -> None:
    """SIGKILL the first process of a pod's container, as the kernel does when memory is short."""
    node = world.release.cluster.node
    command = [str(node.binaries / "ctr"), "--address", f"{node.state}/run/containerd.sock", "-n", "k8s.io"]
    tasks = subprocess.run([*command, "tasks", "list"], capture_output=True, text=True, check=True).stdout
    wanted = container(world, pod)
    (process,) = (int(line.split()[1]) for line in tasks.splitlines() if line.startswith(wanted))
    os.kill(process, signal.SIGKILL)


def peak_memory(world: AddonWorld, pod: str) -> int:
    """Most bytes that a pod's container ever held, by its control group."""
    root = CONTROL_GROUPS if UNIFIED.exists() else CONTROL_GROUPS / "memory"
    name = "memory.peak" if UNIFIED.exists() else "memory.max_usage_in_bytes"
    groups = root / world.release.cluster.node.addresses.name
    wanted = container(world, pod)
    # Unlike a glob, a walk does not mind groups that vanish meanwhile.
    (found,) = (folder for folder, _, files in os.walk(groups) if name in files and wanted in Path(folder).name)
    return int((Path(found) / name).read_text())


def leader(world: AddonWorld) -> str:
    """The operator's pod that holds the Lease; empty when nobody does."""
    path = "jsonpath={.spec.holderIdentity}"
    return world.release.kubectl("get", "lease", "metacore-operator", "-o", path).rpartition("_")[0]


@contextmanager
def writers_held(world: AddonWorld, table: str) -> Iterator[HeldTable]:
    """Nobody can write to `table` of the release's database meanwhile; reading goes on."""
    urls = world.release.urls
    assert urls is not None
    held = HeldTable(urls.superuser, table)
    held.start()
    try:
        yield held
    finally:
        held.release()


class HeldTable(threading.Thread):
    """A transaction that holds the lock, in a thread of its own."""

    def __init__(self, url: str, table: str) -> None:
        super().__init__()
        self._url = url
        self._table = table
        self._held = threading.Event()
        self._free = threading.Event()

    def start(self) -> None:
        super().start()
        assert self._held.wait(PATIENT_SECONDS)

    def release(self) -> None:
        self._free.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._hold())

    async def _hold(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {self._table} IN SHARE ROW EXCLUSIVE MODE")
                self._held.set()
                await asyncio.to_thread(self._free.wait)
        finally:
            await connection.close()

    def wait_for_the_operator(self) -> None:
        """Return once the operator stands still at this table."""
        asyncio.run(self._wait())

    async def _wait(self) -> None:
        connection = await asyncpg.connect(self._url)
        query = (
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted"
            " AND l.relation = $1::regclass AND a.application_name LIKE 'metacore-operator%'"
        )
        try:
            async with asyncio.timeout(PATIENT_SECONDS):
                while True:
                    if await connection.fetchval(query, self._table):
                        return
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()


class Traffic:
    """Clients that write rows through the Service, each request on a connection of its own, until the block ends.

    A client whose write failed sends it again until it is acknowledged, as a person would.
    """

    def __init__(self, world: AddonWorld) -> None:
        self._world = world
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]
        self.acknowledged: list[str] = []
        self.failures: list[str] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()

    def goes_on(self, more: int = 20) -> None:
        """Return once so many further writes were acknowledged."""
        with self._changed:
            wanted = len(self.acknowledged) + more
            if not self._changed.wait_for(lambda: len(self.acknowledged) >= wanted, PATIENT_SECONDS):
                raise AssertionError(f"no {more} writes in {PATIENT_SECONDS} s; last failures: {self.failures[-3:]}")

    def lost(self) -> list[str]:
        """Acknowledged writes that are not there."""
        return sorted(set(self.acknowledged) - set(self._world.titles()))

    def _write(self) -> None:
        while not self._ended:
            title = f"row {next(self._numbers)}"
            while not self._sent(title):
                if self._ended:
                    return

    def _sent(self, title: str) -> bool:
        try:
            status, answer = self._world.request("POST", body={"title": title})
            problem = "" if status == 201 else f"{status} {answer}"
        except (OSError, urllib.error.URLError, ValueError) as error:
            problem = repr(error)
        with self._changed:
            if problem:
                self.failures.append(problem)
            else:
                self.acknowledged.append(title)
            self._changed.notify_all()
        return not problem
