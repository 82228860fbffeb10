"""`metacore dev` as people run it: a real process, its PostgreSQL, its kernel, HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from metacore.bundle.keyfile import read_private_key
from metacore.bundle.signature import sign
from metacore.bundle.write import pack_folder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "addons"
PATIENCE = 90
"""Seconds until something that should have happened counts as never happening."""


class Dev:
    """One running `metacore dev`; `lines` holds what it said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._said:
                self.lines.append(line.decode().rstrip())
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()

    async def says(self, text: str) -> str:
        """Wait for a line with `text`."""
        async with asyncio.timeout(PATIENCE), self._said:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                assert not self._reading.done(), "\n".join(self.lines)
                await self._said.wait()

    async def ends(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reading
        return code


@asynccontextmanager
async def started(tmp_path: Path, addons: Path, data: Path, *arguments: str) -> AsyncIterator[Dev]:
    environment = {**os.environ, "METACORE_HOME": str(tmp_path / "home"), "METACORE_HEARTBEAT_INTERVAL": "0.2"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metacore.cli", "dev", "--addons", str(addons), "--data", str(data), "--port", "0"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    dev = Dev(process)
    try:
        yield dev
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await dev.ends()


@asynccontextmanager
async def client_of(data: Path, login: dict[str, str] | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that is logged in as the first owner, or with `login`."""
    owner = json.loads((data / "owner.json").read_text())
    async with httpx2.AsyncClient(base_url=f"{owner['url']}/api", timeout=PATIENCE) as client:
        answer = await client.post("/auth/login", json=login or {key: owner[key] for key in ("email", "password")})
        assert answer.status_code == 200, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
        yield client


async def eventually(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Ask until the answer is good."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await look()
            if good(found):
                return found
            await asyncio.sleep(0.05)


async def status_of(data: Path) -> dict[str, Any]:
    return dict(json.loads((data / "addons" / "tickets.status.json").read_text())["status"])


def descendants(process_id: int) -> set[int]:
    """Every process below one, by what /proc says."""
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except FileNotFoundError:
                continue
    found: set[int] = set()
    waiting = [process_id]
    while waiting:
        parent = waiting.pop()
        children = {child for child, other in parents.items() if other == parent} - found
        found |= children
        waiting.extend(children)
    return found


def gone(process_ids: set[int]) -> None:
    """Wait until none of these processes runs."""
    for process_id in process_ids:
        try:
            descriptor = os.pidfd_open(process_id)
        except ProcessLookupError:
            continue
        try:
            assert select.select([descriptor], [], [], PATIENCE)[0], f"process {process_id} is still there"
        finally:
            os.close(descriptor)


def kernel_of(dev: Dev) -> int:
    """The process that `metacore dev` runs as the kernel."""
    for process_id in descendants(dev.process.pid):
        command = Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
        if b"serve" in command:
            return process_id
    raise AssertionError("no kernel runs")


@pytest.fixture
def addons(tmp_path: Path) -> Path:
    folder = tmp_path / "addons"
    # What needs a compiler is built in the background, and has tests of its own.
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("dist", "backend", "orders*", "journal*"))
    return folder


def build_next_version(addons: Path, home: Path) -> Path:
    """Version 1.1.0 of the example, with one column more, signed with the development key."""
    file = addons / "tickets" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["metadata"]["version"] = "1.1.0"
    ticket = next(model for model in manifest["models"] if model["key"] == "Ticket")
    ticket["columns"].append({"name": "escalated", "type": "bool", "default": False, "label": "Escalated"})
    file.write_text(json.dumps(manifest))
    content = pack_folder(addons / "tickets")
    bundle = addons / "dist" / "tickets-1.1.0.tar.gz"
    bundle.write_bytes(content)
    signature = sign(content, read_private_key(home / "keys" / "dev.key"))
    bundle.with_name(bundle.name + ".sig.json").write_text(json.dumps(signature.as_json()))
    return bundle


async def test_a_day_with_the_example(tmp_path: Path, addons: Path) -> None:
    data = tmp_path / "data"
    async with started(tmp_path, addons, data) as dev:
        await dev.says("API: http://127.0.0.1:")
        await dev.says("served by 1 kernel")
        owner = json.loads((data / "owner.json").read_text())
        assert (data / "owner.json").stat().st_mode & 0o777 == 0o600
        assert sum(owner["password"] in line for line in dev.lines) == 1, "the password is printed once"
        secrets = json.loads((data / "secrets.json").read_text())
        assert (data / "secrets.json").stat().st_mode & 0o777 == 0o600
        kernel = kernel_of(dev)
        given = Path(f"/proc/{kernel}/environ").read_bytes().decode()
        assert secrets["kernel_password"] in given
        assert secrets["owner_password"] not in given
        assert not [line for line in dev.lines if any(secret in line for secret in secrets.values())]

        async with client_of(data) as client:
            created = await client.post("/dynamic/tickets", json={"subject": "Printer on fire", "priority": "high"})
            assert created.status_code == 201, created.text
            ticket = created.json()["data"]["id"]
            found = (await client.get("/dynamic/Ticket", params={"f_priority": "high"})).json()
            assert [row["id"] for row in found["data"]] == [ticket]

            await elsewhere_sees_nothing(client, data)
            await an_upgrade_comes_live(client, addons, tmp_path / "home")
            assert kernel_of(dev) == kernel, "nothing was restarted"
            await a_flipped_byte_is_refused(client, dev, addons, data)

            os.kill(kernel, signal.SIGKILL)
            await dev.says("the kernel ended by signal 9; starting it again")
            again = await client.get(f"/dynamic/tickets/{ticket}")
            assert again.json()["data"]["escalated"] is False

        running = descendants(dev.process.pid)
        assert len(running) >= 2
        dev.process.send_signal(signal.SIGINT)
        assert await dev.ends() == 0
        assert dev.lines[-1] == "metacore: stopped"
        gone(running)

    async with started(tmp_path, addons, data) as dev:
        await dev.says("API: http://127.0.0.1:")
        assert not [line for line in dev.lines if owner["password"] in line]
        async with client_of(data) as client:
            kept = (await client.get(f"/dynamic/tickets/{ticket}")).json()["data"]
            assert kept["subject"] == "Printer on fire"
        dev.process.send_signal(signal.SIGTERM)
        assert await dev.ends() == 0


async def elsewhere_sees_nothing(client: httpx2.AsyncClient, data: Path) -> None:
    eve = {"email": "eve@example.com", "password": "a long password"}
    answer = await client.post("/auth/register", json={**eve, "name": "Eve", "organization_name": "Elsewhere"})
    assert answer.status_code == 201, answer.text
    async with client_of(data, eve) as other:
        listed = await eventually(lambda: other.get("/dynamic/tickets"), lambda answer: answer.status_code == 200)
        assert listed.json()["data"] == []


async def an_upgrade_comes_live(client: httpx2.AsyncClient, addons: Path, home: Path) -> None:
    build_next_version(addons, home)
    file = addons / "tickets.yaml"
    file.write_text(file.read_text().replace("tickets-1.0.0", "tickets-1.1.0"))
    listed = await eventually(
        lambda: client.get("/dynamic/tickets"), lambda answer: "escalated" in answer.json()["data"][0]
    )
    assert listed.json()["data"][0]["subject"] == "Printer on fire"


async def a_flipped_byte_is_refused(client: httpx2.AsyncClient, dev: Dev, addons: Path, data: Path) -> None:
    bundle = addons / "dist" / "tickets-1.1.0.tar.gz"
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)

    line = await dev.says("SignatureRefused")

    assert re.search(r"tickets: SignatureRefused: dist/tickets-1\.1\.0\.tar\.gz: the signature is for digest", line)
    status = await status_of(data)
    assert (status["phase"], status["version"]) == ("Stalled", "1.1.0")
    assert (await client.get("/dynamic/tickets")).status_code == 200


async def test_two_run_side_by_side_and_a_killed_one_comes_back(tmp_path: Path, addons: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    async with (
        started(tmp_path, addons, other, "--workers", "2") as second,
        started(tmp_path, addons, one) as first,
    ):
        for dev in (first, second):
            await dev.says("API: http://127.0.0.1:")
        await eventually(lambda: status_of(other), lambda status: status["kernels"] == {"live": 2, "acknowledged": 2})
        kernel = kernel_of(first)
        first.process.kill()
        await first.ends()
        gone({kernel})

        async with started(tmp_path, addons, one) as revived:
            await revived.says("API: http://127.0.0.1:")
            async with client_of(one) as client, client_of(other) as neighbour:
                assert (await client.get("/dynamic/tickets")).status_code == 200
                assert (await neighbour.post("/dynamic/tickets", json={"subject": "x"})).status_code == 201
                assert (await client.get("/dynamic/tickets")).json()["meta"]["total"] == 0
            revived.process.send_signal(signal.SIGTERM)
            assert await revived.ends() == 0


async def run_to_the_end(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metacore.cli", "dev", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "METACORE_HOME": str(tmp_path / "home")},
    )
    async with asyncio.timeout(PATIENCE):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_port_in_use_is_told_before_anything_is_made(tmp_path: Path, addons: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        code, said = await run_to_the_end(
            tmp_path, "--addons", str(addons), "--data", str(tmp_path / "data"), "--port", port
        )

    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "home").exists()
    assert not (addons / "dist").exists()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, said = await run_to_the_end(tmp_path, "--addons", str(tmp_path / "nothing"), "--port", "0")

    assert code == 2
    assert f"there is no folder {tmp_path / 'nothing'}" in said


async def test_stopping_while_it_starts_leaves_nothing_behind(tmp_path: Path, addons: Path) -> None:
    data = tmp_path / "data"
    async with started(tmp_path, addons, data) as dev:
        await dev.says("starting PostgreSQL")
        dev.process.send_signal(signal.SIGINT)
        assert await dev.ends() == 0
    assert not [place for place in Path("/proc").iterdir() if place.name.isdigit() and str(data) in command_line(place)]


def command_line(place: Path) -> str:
    try:
        return (place / "cmdline").read_bytes().decode(errors="replace") + str((place / "cwd").readlink())
    except OSError:
        return ""
