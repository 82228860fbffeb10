"""The embedded server: kept data, side by side, and every way a process may have died before."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from metacore.db import postgres_binaries
from metacore.db.embedded import EmbeddedServer
from metacore.errors import Misconfigured, Unavailable

QUICK = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}

HOLDER = """
import asyncio, sys
from pathlib import Path
from metacore.db.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]), extra_settings={"fsync": "off", "shared_buffers": "16MB"})
    await server.start()
    print(server.process_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that nobody but this user may enter, as temporary folders are."""
    folder = Path(tempfile.mkdtemp(prefix="metacore-embedded-"))
    yield folder / "data"
    shutil.rmtree(folder)


async def ask(server: EmbeddedServer, statement: str) -> object:
    connection = await asyncpg.connect(server.superuser_url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def running(process_id: int) -> bool:
    return Path(f"/proc/{process_id}/cmdline").exists() and bool(Path(f"/proc/{process_id}/cmdline").read_bytes())


async def test_a_second_start_keeps_data_port_and_password(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        first = server.superuser_url
        await ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        process_id = server.process_id
    assert process_id is not None
    assert not running(process_id)

    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        assert server.superuser_url == first
        assert await ask(server, "SELECT answer FROM kept") == 42


async def test_every_role_needs_its_password_and_secrets_are_private(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url("postgres", "guess", "postgres"))
        assert await ask(server, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'postgres'")
        assert await ask(server, "SHOW unix_socket_directories") == ""
        assert await ask(server, "SHOW listen_addresses") == "127.0.0.1"
        for name in ("superuser", "server.log", "lock"):
            assert stat.S_IMODE((data / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700


async def test_two_servers_run_side_by_side(data: Path) -> None:
    async with (
        EmbeddedServer(data / "a", extra_settings=QUICK) as one,
        EmbeddedServer(data / "b", extra_settings=QUICK) as other,
    ):
        assert one.port != other.port
        await ask(one, "CREATE DATABASE only_here")
        assert await ask(other, "SELECT count(*) FROM pg_database WHERE datname = 'only_here'") == 0


async def test_a_folder_in_use_is_refused_and_its_server_goes_on(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        second = EmbeddedServer(data, extra_settings=QUICK)
        with pytest.raises(Misconfigured, match=f"in use by process {os.getpid()}"):
            await second.start()
        await second.stop()
        assert await ask(server, "SELECT 1") == 1


async def test_it_starts_again_after_its_postmaster_was_killed(data: Path) -> None:
    server = EmbeddedServer(data, extra_settings=QUICK)
    await server.start()
    await ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.process_id is not None
    os.kill(server.process_id, signal.SIGKILL)
    await server.stop()
    assert (data / "cluster" / "postmaster.pid").exists()

    async with EmbeddedServer(data, extra_settings=QUICK) as again:
        assert await ask(again, "SELECT answer FROM kept") == 42


async def test_a_server_that_outlived_its_killed_process_is_ended_and_replaced(data: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(data), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    orphan = int(await asyncio.wait_for(holder.stdout.readline(), 60))
    holder.kill()
    await holder.communicate()
    assert running(orphan)

    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        assert not running(orphan)
        assert server.process_id != orphan
        assert await ask(server, "SELECT 1") == 1


async def test_a_stale_pid_file_with_the_number_of_another_program_does_not_matter(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK):
        lines = (data / "cluster" / "postmaster.pid").read_text().split("\n")
    (data / "cluster" / "postmaster.pid").write_text("\n".join([str(os.getppid()), *lines[1:]]))

    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        assert await ask(server, "SELECT 1") == 1
    assert running(os.getppid())


async def test_a_start_that_was_killed_while_making_the_cluster_leaves_nothing_in_the_way(data: Path) -> None:
    half = data / ".new-half"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    (data / "superuser").write_text("password of a cluster that never was\n")

    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        assert await ask(server, "SELECT 1") == 1
    assert not half.exists()


async def test_a_port_taken_meanwhile_is_replaced(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK) as server:
        port = server.port
    squatter = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    try:
        async with EmbeddedServer(data, extra_settings=QUICK) as server:
            assert server.port != port
            assert await ask(server, "SELECT 1") == 1
    finally:
        squatter.close()
        await squatter.wait_closed()


async def test_a_cancelled_start_leaves_no_server_and_no_lock(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = asyncio.Event()
    loop = asyncio.get_running_loop()
    find = postgres_binaries.find_binaries

    def find_and_tell(account: postgres_binaries.Account | None) -> Path:
        loop.call_soon_threadsafe(under_way.set)
        return find(account)

    monkeypatch.setattr(postgres_binaries, "find_binaries", find_and_tell)
    server = EmbeddedServer(data, extra_settings=QUICK)
    start = asyncio.create_task(server.start())
    await under_way.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert server.process_id is None

    async with EmbeddedServer(data, extra_settings=QUICK) as again:
        assert await ask(again, "SELECT 1") == 1


async def test_a_server_that_cannot_start_says_what_postgresql_said(data: Path) -> None:
    server = EmbeddedServer(data, extra_settings={**QUICK, "shared_buffers": "nonsense"})
    with pytest.raises(Unavailable, match="invalid value for parameter"):
        await server.start()

    async with EmbeddedServer(data, extra_settings=QUICK) as again:
        assert await ask(again, "SELECT 1") == 1


async def test_a_cluster_of_another_major_version_is_refused(data: Path) -> None:
    async with EmbeddedServer(data, extra_settings=QUICK):
        pass
    (data / "cluster" / "PG_VERSION").write_text("15\n")
    with pytest.raises(Misconfigured, match="made by PostgreSQL 15"):
        await EmbeddedServer(data, extra_settings=QUICK).start()


async def test_without_the_extra_it_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "PACKAGE", "a_wheel_that_is_not_here")
    with pytest.raises(Misconfigured, match=r"metacore\[embedded\]"):
        await EmbeddedServer(data, extra_settings=QUICK).start()


async def test_a_folder_that_cannot_be_made_is_named(data: Path) -> None:
    data.write_text("a file")
    with pytest.raises(Misconfigured, match=str(data)):
        await EmbeddedServer(data / "below", extra_settings=QUICK).start()


async def test_programs_in_a_closed_folder_are_copied_for_the_system_user(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root in a checkout below /root; for an ordinary user nothing is copied."""
    account = postgres_binaries.system_account()
    monkeypatch.setattr(postgres_binaries, "ROOT_FOLDER", data / "var")
    monkeypatch.setattr(postgres_binaries, "closed_folder", lambda _path: data)
    found = postgres_binaries.find_binaries(account)
    assert (found / "postgres").exists()
    assert found.is_relative_to(data) == (account is not None)
    if account is not None:
        data.parent.chmod(0o711)
        data.chmod(0o711)
        monkeypatch.setattr(postgres_binaries, "find_binaries", lambda _account: found)
        async with EmbeddedServer(data / "server", extra_settings=QUICK) as server:
            assert await ask(server, "SELECT 1") == 1
