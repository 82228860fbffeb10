"""`metacore serve` with ten addons that bring code: it runs them, keeps what it compiled, and stays small."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests import workshop
from tests.applications import PASSWORD
from tests.conftest import DatabaseUrls
from tests.control_plane import control_plane
from tests.guests.build import guest
from tests.guests.script import host, script
from tests.integration.test_serve_command import SECRET, ended, start, until_ready
from tests.tickets import signed

ADDONS = 10
MOST_RESIDENT_KB = 200 * 1024


def addon(number: int) -> bytes:
    """The same code as another module: a custom section makes its digest its own."""
    manifest = workshop.workshop_manifest(key=f"shop{number}", name=f"Shop {number}")
    model = manifest["models"][0]
    manifest["models"] = [{**model, "key": f"Order{number}", "table": f"orders{number}"}]
    action = {"key": "run", "target_model": f"Order{number}", "handler": {"type": "wasm", "function": "run"}}
    manifest["contributions"] = {"actions": [action]}
    name = f"addon{number}".encode()
    section = bytes([len(name)]) + name
    return workshop.workshop_bundle(manifest, guest("script") + bytes([0, len(section)]) + section)


def resident_kb(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        free = int(holder.getsockname()[1])
    yield free


async def test_ten_addons_with_code_are_served_within_200_megabytes(
    database_urls: DatabaseUrls, port: int, tmp_path: Path
) -> None:
    async with control_plane(database_urls) as plane, plane.working():
        for number in range(ADDONS):
            content, signature = signed(addon(number))
            reply = await plane.install(plane.ada, content, signature, key=f"shop{number}")
            assert reply.status_code == 201, reply.text
    process = await start(
        *("serve", "--port", str(port)),
        METACORE_DATABASE_URL=database_urls.kernel,
        METACORE_JWT_SECRETS=SECRET,
        METACORE_CACHE_DIR=str(tmp_path / "cache"),
    )
    await until_ready(process)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        login = await client.post("/api/auth/login", json={"email": "ada@example.com", "password": PASSWORD})
        headers = {"Authorization": f"Bearer {login.json()['data']['token']}"}

        async def send(path: str, given: dict[str, Any]) -> Any:
            answer = await client.post(f"/api/dynamic/{path}", json=given, headers=headers)
            assert answer.is_success, answer.text
            return answer.json()["data"]

        for number in range(ADDONS):
            made = await send(f"orders{number}", {"title": f"order {number}"})
            asked = script(
                host("env_get", "greeting"), host("data_query", {"model": f"Order{number}"}), host("log", "served")
            )
            told = await send(f"orders{number}/{made['id']}/action/run", asked)
            assert told[0] == "hi"
            assert told[1]["data"]["rows"][0]["title"] == f"order {number}"
    resident = resident_kb(process.pid)
    process.send_signal(signal.SIGTERM)
    code, said = await ended(process)
    assert code == 0, said
    assert resident < MOST_RESIDENT_KB, f"{resident} KB"
    assert len(list((tmp_path / "cache" / "modules").glob("*.cwasm"))) == ADDONS
    lines = [line for line in said.splitlines() if "addon.log" in line]
    assert len(lines) == ADDONS
