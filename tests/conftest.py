"""A real PostgreSQL for every test that asks for one: a server per worker, a fresh migrated database per test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from tests.fixtures.sessions import session_leaks

from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import create_all, migrate
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, prepare_database

OWNER_PASSWORD = "owner of the tests"
KERNEL_PASSWORD = "kernel of the tests"
TEMPLATE = "metacore_template"
QUICK_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}

numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """One database, as each role reaches it."""

    name: str
    owner: str
    kernel: str
    superuser: str


def urls_of(server: EmbeddedServer, database: str) -> DatabaseUrls:
    return DatabaseUrls(
        name=database,
        owner=server.url(OWNER_ROLE, OWNER_PASSWORD, database),
        kernel=server.url(KERNEL_ROLE, KERNEL_PASSWORD, database),
        superuser=server.superuser_url.rpartition("/")[0] + "/" + database,
    )


@contextmanager
def ended_with_this_process(server: EmbeddedServer, folder: Path) -> Iterator[None]:
    """Should this process be killed, the pipe breaks and a shell ends the server and removes its folder."""
    script = 'read -r word; [ "$word" ] || { kill -INT "$1"; while kill -0 "$1"; do sleep 0.1; done; rm -rf "$2"; }'
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(server.process_id), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.communicate(b"done\n")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes in a test's name by their argument alone: archives hold times, and every worker must collect the same."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedServer]:
    """This worker's own server, with both roles; nothing of it is kept."""
    folder = Path(tempfile.mkdtemp(prefix="metacore-tests-"))
    server = EmbeddedServer(folder / "postgresql", extra_settings=QUICK_SETTINGS)

    async def start() -> None:
        await server.start()
        await prepare_database(
            server.superuser_url, database=TEMPLATE, owner_password=OWNER_PASSWORD, kernel_password=KERNEL_PASSWORD
        )

    try:
        asyncio.run(start())
        with ended_with_this_process(server, folder):
            yield server
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedServer) -> str:
    """A migrated database that nobody is connected to, so it can be copied."""
    asyncio.run(migrate(urls_of(postgres_server, TEMPLATE).owner))
    return TEMPLATE


@asynccontextmanager
async def new_database(server: EmbeddedServer, template: str = "template1") -> AsyncIterator[DatabaseUrls]:
    """A database of the owner role, a copy of `template`, that goes away at the end."""
    name = f"test_{os.getpid()}_{next(numbers)}"
    admin = await asyncpg.connect(server.superuser_url)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER_ROLE} STRATEGY file_copy")
        # Privileges of a database are not copied with it.
        await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {OWNER_ROLE}, {KERNEL_ROLE}")
        try:
            yield urls_of(server, name)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def database_urls(postgres_server: EmbeddedServer, template_database: str) -> AsyncIterator[DatabaseUrls]:
    """A fresh, migrated database of this test."""
    async with new_database(postgres_server, template_database) as urls:
        yield urls


@pytest.fixture
async def owner_db(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    """The test's database as the role that owns it: every organization's rows, DDL."""
    database = await Database.connect(database_urls.owner, pool_size=4)
    try:
        yield database
        assert await session_leaks(database) == []
    finally:
        await database.close()


@pytest.fixture
async def kernel_db(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    """The test's database as the kernel's role, which row-level security holds.

    A released connection is not reset, so whatever a test ran must have left nothing on it.
    """
    database = await Database.connect(database_urls.kernel, pool_size=4)
    try:
        yield database
        assert await session_leaks(database) == []
    finally:
        await database.close()


@pytest.fixture
async def sqlite_db(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated SQLite file."""
    database = await Database.connect(f"sqlite:///{tmp_path / 'metacore.db'}")
    try:
        await create_all(database)
        yield database
    finally:
        await database.close()


@pytest.fixture(params=["postgresql", "sqlite"])
def databases(request: pytest.FixtureRequest) -> tuple[Database, Database]:
    """The database that is served and the one that may do DDL, on each dialect; on SQLite they are one."""
    if request.param == "sqlite":
        database = request.getfixturevalue("sqlite_db")
        return database, database
    return request.getfixturevalue("kernel_db"), request.getfixturevalue("owner_db")
