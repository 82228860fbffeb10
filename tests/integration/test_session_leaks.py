"""Nothing session-level survives on a pooled connection: releasing one resets nothing, because that costs a trip.

The fixtures `owner_db` and `kernel_db` hunt for the same leaks after every test that uses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, make_user
from tests.fixtures.sessions import session_leaks

from metacore.db.database import Database
from metacore.ids import new_uuid

OWN_SCOPE = """
SELECT (SELECT count(*) FROM users u WHERE u.organization_id = s.org)
FROM (SELECT set_config('app.current_org', $1, true)::uuid AS org OFFSET 0) s
"""


@pytest.fixture
async def one_connection(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    """A pool of one, so that everything runs on the same connection."""
    database = await Database.connect(database_urls.kernel, pool_size=1)
    yield database
    await database.close()


async def scope_of(database: Database) -> str | None:
    scope: str | None = await database.postgres.fetchval("SELECT current_setting('app.current_org', true)")
    return scope


async def test_the_scope_of_a_statement_ends_with_it(one_connection: Database, owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    await make_user(owner_db, organization)
    assert await one_connection.postgres.fetchval(OWN_SCOPE, str(organization)) == 1
    assert await scope_of(one_connection) == ""  # PostgreSQL gives it back empty, not null: policies must bear that.
    assert await one_connection.postgres.fetchval("SELECT count(*) FROM users") == 0
    assert await session_leaks(one_connection) == []


async def test_the_scope_of_a_transaction_ends_with_it(one_connection: Database, owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    async with one_connection.transaction(organization) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM organizations"))).scalar_one() == 1
    async with one_connection.transaction(None) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM organizations"))).scalar_one() == 0
    assert await session_leaks(one_connection) == []


async def test_a_failed_statement_leaves_no_scope(one_connection: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await one_connection.postgres.execute(f"SELECT 1 / 0 FROM ({OWN_SCOPE.replace('$1', repr(str(new_uuid())))}) x")
    assert await session_leaks(one_connection) == []


async def test_a_cancelled_request_leaves_no_scope_and_no_transaction(one_connection: Database) -> None:
    started = asyncio.Event()

    async def request() -> None:
        async with one_connection.postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.current_org', $1, true)", str(new_uuid()))
            started.set()
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(request())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await session_leaks(one_connection) == []


@pytest.mark.parametrize(
    ("statement", "trace"),
    [
        ("SELECT set_config('app.current_org', '00000000-0000-4000-8000-000000000000', false)", "app.current_org"),
        ("SET statement_timeout = 1234", "setting statement_timeout"),
        ("SELECT pg_advisory_lock(7)", "advisory lock 7"),
        ("LISTEN metacore_auth", "listens to metacore_auth"),
        ("PREPARE mine AS SELECT 1", "prepared statement mine"),
    ],
)
async def test_the_hunt_finds_what_a_statement_leaves(one_connection: Database, statement: str, trace: str) -> None:
    await one_connection.postgres.execute(statement)
    assert [leak for leak in await session_leaks(one_connection) if trace in leak]
