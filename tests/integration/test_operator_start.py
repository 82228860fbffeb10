"""An operator that starts before its database waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.conftest import urls_of

from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.roles import OWNER_ROLE
from metacore_operator.__main__ import opened

NAME = "made_later"


async def test_a_database_that_comes_later_is_waited_for_and_told_once(
    postgres_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(urls_of(postgres_server, NAME).owner, pool_size=2)
    waiting = asyncio.create_task(opened(database, retry_seconds=0.01))
    tries = 0
    open_once = database.open

    async def counted() -> None:
        nonlocal tries
        tries += 1
        await open_once()

    database.open = counted  # type: ignore[method-assign]
    while tries < 3:
        await asyncio.sleep(0)
        assert not waiting.done()
    admin = await asyncpg.connect(postgres_server.superuser_url)
    try:
        await admin.execute(f"CREATE DATABASE {NAME} OWNER {OWNER_ROLE}")
        await waiting
        assert await database.postgres.fetchval("SELECT current_user") == OWNER_ROLE
        (record,) = caplog.records
        assert NAME in record.__dict__["error"]
    finally:
        await database.close()
        await admin.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        await admin.close()
