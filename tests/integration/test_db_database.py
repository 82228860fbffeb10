"""One database as one role: scopes, commits, the hot pool's bytes, and what is refused."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, make_user

from metacore.db.database import ENGINE_SECONDS, LEAST_POOL_SIZE, Database
from metacore.db.migrate import LIMITS
from metacore.db.sockets import Watched
from metacore.errors import Misconfigured
from metacore.ids import OrganizationId, new_uuid
from metacore.installer.runner import STATEMENT_TIMEOUT
from metacore.orm.tables import Organization
from metacore.settings import Settings


async def names(database: Database, organization: OrganizationId | None) -> list[str]:
    async with database.transaction(organization) as connection:
        return list((await connection.execute(text("SELECT name FROM organizations ORDER BY name"))).scalars())


def test_the_least_pool_that_settings_allow_is_the_one_that_can_serve() -> None:
    (least,) = [rule.ge for rule in Settings.model_fields["pool_size"].metadata if hasattr(rule, "ge")]
    assert least == LEAST_POOL_SIZE


async def test_a_transaction_sees_the_rows_of_its_organization(owner_db: Database, kernel_db: Database) -> None:
    one, _ = await make_organization(owner_db, "One"), await make_organization(owner_db, "Two")
    assert await names(kernel_db, one) == ["One"]
    assert await names(kernel_db, None) == []


async def test_scopes_of_concurrent_transactions_do_not_mix(owner_db: Database, kernel_db: Database) -> None:
    organizations = [await make_organization(owner_db, f"Org {number}") for number in range(4)]
    found = await asyncio.gather(*(names(kernel_db, organization) for organization in organizations * 10))
    assert found == [[f"Org {number}"] for number in range(4)] * 10


async def test_a_session_commits_when_its_block_ends_well_and_not_otherwise(
    kernel_db: Database, sqlite_db: Database
) -> None:
    for database in (kernel_db, sqlite_db):
        kept = OrganizationId(new_uuid())
        async with database.session(kept) as session:
            session.add(Organization(id=kept, name="Kept"))
        lost = OrganizationId(new_uuid())
        with pytest.raises(ZeroDivisionError):
            async with database.session(lost) as session:
                session.add(Organization(id=lost, name="Lost"))
                await session.flush()
                raise ZeroDivisionError
        assert await names(database, kept) == ["Kept"]
        if database.dialect == "postgresql":
            assert await names(database, lost) == []


async def test_factories_work_on_both_dialects(owner_db: Database, sqlite_db: Database) -> None:
    for database in (owner_db, sqlite_db):
        organization = await make_organization(database)
        await make_user(database, organization, email="Ada@Example.com")
        async with database.transaction(organization) as connection:
            assert (await connection.execute(text("SELECT email FROM users"))).scalar_one() == "ada@example.com"


async def test_json_passes_the_hot_pool_as_bytes(kernel_db: Database) -> None:
    for kind in ("json", "jsonb"):
        assert await kernel_db.postgres.fetchval(f"SELECT $1::{kind}", b'{"a": [1, "\xc3\xa9"]}') == (
            b'{"a": [1, "\xc3\xa9"]}'
        )


async def test_behind_a_transaction_pooler_statements_have_names_of_their_own(database_urls: DatabaseUrls) -> None:
    database = await Database.connect(database_urls.kernel, pool_size=2, transaction_pooler=True)
    prepared = text("SELECT name FROM pg_prepared_statements")
    try:
        seen: set[str] = set()
        for _ in range(2):
            async with database.transaction(None) as connection:
                found = set((await connection.execute(prepared)).scalars())
                assert found
                assert not found & seen
                assert all(name.startswith("metacore_") for name in found)
                seen |= found
        assert await database.postgres.fetch("SELECT name FROM pg_prepared_statements WHERE name <> ''") == []
    finally:
        await database.close()


async def test_every_connection_notices_a_server_that_is_gone(kernel_db: Database) -> None:
    async with kernel_db.postgres.acquire() as connection:
        assert isinstance(getattr(connection, "_con", None), Watched)
    async with kernel_db.transaction(None) as transaction:
        raw = await transaction.get_raw_connection()
        assert isinstance(raw.driver_connection, Watched)


async def test_a_statement_of_the_engine_has_an_end_and_the_database_goes_on(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert max(limit_in(LIMITS[1]), limit_in(STATEMENT_TIMEOUT)) < ENGINE_SECONDS
    monkeypatch.setattr("metacore.db.database.ENGINE_SECONDS", 0.2)
    database = await Database.connect(database_urls.kernel, pool_size=1)
    try:
        with pytest.raises(TimeoutError):
            async with database.transaction(None) as connection:
                await connection.execute(text("SELECT pg_sleep(600)"))
        assert await names(database, None) == []
    finally:
        await database.close()


def limit_in(setting: str) -> int:
    """Seconds in a setting such as `… '600s'`."""
    return int(setting.strip("'").rpartition("'")[2].removesuffix("s"))


async def test_closing_twice_and_opening_twice_do_no_harm(database_urls: DatabaseUrls) -> None:
    database = await Database.connect(database_urls.kernel, pool_size=1)
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(Misconfigured, match="not open"):
        _ = database.postgres


async def test_a_database_that_cannot_be_used_is_said_without_its_password() -> None:
    with pytest.raises(Misconfigured, match="cannot reach") as caught:
        await Database.connect("postgresql://who:hunter2@127.0.0.1:1/app")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://who:hunter2@host/app", "not a url", "", "postgresql:/who:hunter2@host"])
def test_a_url_of_another_kind_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


async def test_sqlite_has_no_hot_pool(sqlite_db: Database) -> None:
    with pytest.raises(Misconfigured, match="needs PostgreSQL"):
        _ = sqlite_db.postgres
