"""`metacore serve` and `metacore migrate` as an operator of a server runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.conftest import DatabaseUrls, new_database
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from metacore.cli.listening import trusted_sources
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import head_revision

PATIENCE = 60
SECRET = "a secret for access tokens that is long enough"


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METACORE_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metacore.cli", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**clean, "METACORE_LOG_FORMAT": "console", **environment},
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    return await ended(await start(*arguments, **environment))


async def until_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        async for line in process.stdout:
            if b"Application startup complete" in line:
                return
    raise AssertionError("it did not start")


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        free = int(holder.getsockname()[1])
    yield free


async def test_it_serves_until_it_is_asked_to_stop(database_urls: DatabaseUrls, port: int) -> None:
    process = await start(
        "serve", "--port", str(port), METACORE_DATABASE_URL=database_urls.kernel, METACORE_JWT_SECRETS=SECRET
    )
    await until_ready(process)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert "server" not in answer.headers
        assert (await client.get("/docs")).status_code == 200

    process.send_signal(signal.SIGTERM)
    code, said = await ended(process)

    assert code == 0, said
    assert SECRET not in said


async def guesses(port: int, address: str, times: int) -> list[int]:
    """The statuses of wrong passwords for one email, said to come from `address` through a proxy on this machine."""
    body = {"email": "ada@example.com", "password": "guessed and wrong"}
    headers = {"X-Forwarded-For": f"198.51.100.1, {address}"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/api") as client:
        return [(await client.post("/auth/login", json=body, headers=headers)).status_code for _ in range(times)]


@pytest.mark.parametrize("proxies", ["127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"])
async def test_behind_a_trusted_proxy_a_guesser_locks_out_only_itself(
    database_urls: DatabaseUrls, port: int, proxies: str
) -> None:
    process = await start(
        *("serve", "--port", str(port)),
        METACORE_DATABASE_URL=database_urls.kernel,
        METACORE_JWT_SECRETS=SECRET,
        METACORE_TRUSTED_PROXIES=proxies,
    )
    await until_ready(process)
    assert set(await guesses(port, "203.0.113.9", 10)) == {401}
    assert await guesses(port, "203.0.113.9", 1) == [429]
    assert await guesses(port, "203.0.113.10", 1) == [401]
    process.send_signal(signal.SIGTERM)
    code, said = await ended(process)
    assert code == 0, said


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8"])
async def test_nobody_else_chooses_the_address_they_come_from(
    database_urls: DatabaseUrls, port: int, proxies: str
) -> None:
    process = await start(
        *("serve", "--port", str(port)),
        METACORE_DATABASE_URL=database_urls.kernel,
        METACORE_JWT_SECRETS=SECRET,
        METACORE_TRUSTED_PROXIES=proxies,
    )
    await until_ready(process)
    statuses = [status for n in range(11) for status in await guesses(port, f"203.0.113.{n}", 1)]
    assert statuses == [401] * 10 + [429]
    process.send_signal(signal.SIGTERM)
    code, said = await ended(process)
    assert code == 0, said


def test_a_proxy_is_trusted_also_where_its_address_comes_mapped() -> None:
    trusted = ProxyHeadersMiddleware(_nothing, trusted_sources(["10.1.0.0/16", "192.0.2.7", "fd00::/64"])).trusted_hosts
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "::ffff:192.0.2.7", "fd00::5"):
        assert address in trusted
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "192.0.2.8", "::ffff:192.0.2.8", "fd00:1::5", "", "proxy"):
        assert address not in trusted


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    return None


async def test_workers_share_one_port_and_leave_together(database_urls: DatabaseUrls, port: int) -> None:
    process = await start(
        *("serve", "--port", str(port), "--workers", "2", "--with-parent"),
        METACORE_DATABASE_URL=database_urls.kernel,
        METACORE_JWT_SECRETS=SECRET,
    )
    await until_ready(process)
    await until_ready(process)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/readyz")).status_code == 200

    assert process.stdin is not None
    process.stdin.close()  # To the kernel its parent is gone.
    code, said = await ended(process)

    assert code == 0, said


async def test_it_refuses_to_serve_as_a_role_that_may_do_more(database_urls: DatabaseUrls, port: int) -> None:
    code, said = await run(
        "serve", "--port", str(port), METACORE_DATABASE_URL=database_urls.owner, METACORE_JWT_SECRETS=SECRET
    )

    assert code != 0
    assert "must not serve as the database role" in said
    assert "owner%20of%20the%20tests" not in said


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "METACORE_DATABASE_URL is not set"),
        ([], {"METACORE_PORT": "many"}, "METACORE_PORT"),
        ([], {"METACORE_POOL_SIZE": "1"}, "METACORE_POOL_SIZE: Input should be greater than or equal to 2"),
        ([], {"METACORE_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "METACORE_TRUSTED_PROXIES: Value error, no address"),
        ([], {"METACORE_TRUSTED_PROXIES": "10.0.0.1/8"}, "10.0.0.1/8 has host bits set"),
        ([], {"METACORE_TRUSTED_PROXIES": "*"}, "METACORE_TRUSTED_PROXIES"),
        (["--workers", "2"], {"METACORE_DATABASE_URL": "postgresql://x"}, "METACORE_JWT_SECRETS"),
    ],
)
async def test_settings_that_cannot_work_are_named(
    arguments: list[str], environment: dict[str, str], words: str, port: int
) -> None:
    code, said = await run("serve", *arguments, **{"METACORE_PORT": str(port), **environment})

    assert code == 2, said
    assert words in said
    assert "Traceback" not in said


async def test_a_port_in_use_is_told(port: int) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        code, said = await run(
            "serve", "--port", str(port), METACORE_DATABASE_URL="postgresql://x", METACORE_JWT_SECRETS=SECRET
        )

    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in said


async def test_migrating_and_checking(postgres_server: EmbeddedServer) -> None:
    async with new_database(postgres_server) as empty:
        url = {"METACORE_OWNER_DATABASE_URL": empty.owner}

        code, said = await run("migrate", "--check", **url)
        assert (code, said.strip()) == (1, f"database empty, this build {head_revision()}")

        code, said = await run("migrate", **url)
        assert (code, said.strip()) == (0, f"migrated to {head_revision()}")

        code, said = await run("migrate", "--check", METACORE_DATABASE_URL=empty.kernel)
        assert (code, said.strip()) == (0, f"database {head_revision()}, this build {head_revision()}")

    code, said = await run("migrate")
    assert code == 2
    assert "METACORE_OWNER_DATABASE_URL is not set" in said
