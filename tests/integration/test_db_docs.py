"""docs/database.md: its SQL makes a database that the kernel serves from, and its tables name what there is."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import QUICK_SETTINGS

from metacore.db.database import Database
from metacore.db.definers import DEFINERS
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import migrate
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, check_kernel_role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "database.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in script.split(";"):
            if statement.strip():
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_sql_of_the_page_prepares_a_database_that_can_be_served() -> None:
    server_wide, in_database, look = blocks("sql")
    with tempfile.TemporaryDirectory(prefix="metacore-docs-") as folder:
        async with EmbeddedServer(Path(folder) / "data", extra_settings=QUICK_SETTINGS) as server:
            await run(server.superuser_url, server_wide)
            await run(server.superuser_url.rpartition("/")[0] + "/app", in_database)
            await migrate(server.url(OWNER_ROLE, "choose-one", "app"))
            kernel = server.url(KERNEL_ROLE, "choose-another", "app")
            await run(kernel, look)
            database = await Database.connect(kernel, pool_size=1)
            await check_kernel_role(database)
            await database.close()


async def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks("python")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("PostgreSQL 18")


def test_every_function_with_the_owners_rights_is_on_the_page() -> None:
    assert set(re.findall(r"^\| `(metacore_\w+)\(", PAGE, re.MULTILINE)) == {definer.name for definer in DEFINERS}
