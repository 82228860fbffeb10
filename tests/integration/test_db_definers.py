"""The functions through which the kernel role looks across organizations, and the numbering of events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest
from tests.conftest import DatabaseUrls
from tests.fixtures.tenants import email_of, seed_organization, token_hash_of

from metacore.db.database import Database
from metacore.db.definers import DEFINERS
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE
from metacore.ids import new_uuid

INSERT_EVENT = """
WITH s AS MATERIALIZED (SELECT set_config('app.current_org', $1, true)::uuid AS org)
INSERT INTO metacore_events (organization_id, addon_key, event_type, data)
SELECT s.org, 'shop', $2, '{}' FROM s RETURNING id
"""


async def write_event(database: Database, organization: UUID, event_type: str = "shop.order.created") -> int:
    event_id: int = await database.postgres.fetchval(INSERT_EVENT, str(organization), event_type)
    return event_id


async def number(database: Database, batch: int = 1000) -> list[asyncpg.Record]:
    return await database.postgres.fetch("SELECT * FROM metacore_number_events($1)", batch)


def sequences(rows: Sequence[asyncpg.Record]) -> dict[UUID, list[int]]:
    found: dict[UUID, list[int]] = defaultdict(list)
    for row in rows:
        found[row["organization_id"]].append(row["sequence_num"])
    return dict(found)


async def test_the_database_has_exactly_the_listed_functions_each_made_safe(owner_db: Database) -> None:
    rows = await owner_db.postgres.fetch(
        "SELECT proname::text || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS signature, proname::text,"
        " oidvectortypes(proargtypes) AS types, prosecdef, pg_get_userbyid(proowner) AS owner, proconfig,"
        " has_function_privilege('public', p.oid, 'EXECUTE') AS everybody,"
        f" has_function_privilege('{KERNEL_ROLE}', p.oid, 'EXECUTE') AS kernel"
        " FROM pg_proc p WHERE pronamespace = 'public'::regnamespace"
    )
    assert {(row["proname"], row["types"]) for row in rows} == {(each.name, each.arguments) for each in DEFINERS}
    for row in rows:
        assert row["prosecdef"], row["signature"]
        assert row["owner"] == OWNER_ROLE
        path, *others = row["proconfig"]
        assert path == "search_path=pg_catalog, public, pg_temp"
        assert all(other.startswith("enable_") for other in others)  # The planner's; no meaning changes by them.
        assert not row["everybody"]
        assert row["kernel"]
    assert all(definer.reason for definer in DEFINERS)


async def test_login_finds_a_user_of_any_organization_by_email(owner_db: Database, kernel_db: Database) -> None:
    organization = await seed_organization(owner_db)
    await seed_organization(owner_db)
    rows = await kernel_db.postgres.fetch("SELECT * FROM metacore_login($1)", email_of(organization).upper())
    assert [dict(row)["organization_id"] for row in rows] == [organization]
    assert set(rows[0].keys()) == {
        "id",
        "organization_id",
        "name",
        "email",
        "password_hash",
        "role",
        "status",
        "token_epoch",
    }
    assert await kernel_db.postgres.fetch("SELECT * FROM metacore_login('nobody@example.com')") == []
    assert await kernel_db.postgres.fetch("SELECT * FROM metacore_login('%')") == []


async def test_refresh_finds_a_token_with_its_session(owner_db: Database, kernel_db: Database) -> None:
    organization = await seed_organization(owner_db)
    await seed_organization(owner_db)
    rows = await kernel_db.postgres.fetch("SELECT * FROM metacore_refresh($1)", token_hash_of(organization))
    assert len(rows) == 1
    assert rows[0]["organization_id"] == organization
    assert rows[0]["used_at"] is None
    assert rows[0]["session_revoked_at"] is None
    assert set(rows[0].keys()) == {
        "token_id",
        "session_id",
        "organization_id",
        "user_id",
        "expires_at",
        "used_at",
        "session_revoked_at",
        "session_expires_at",
    }
    assert await kernel_db.postgres.fetch("SELECT * FROM metacore_refresh('')") == []


async def test_installed_tells_of_every_organization_without_secrets(owner_db: Database, kernel_db: Database) -> None:
    organizations = {await seed_organization(owner_db), await seed_organization(owner_db)}
    rows = await kernel_db.postgres.fetch("SELECT * FROM metacore_installed()")
    assert {row["organization_id"] for row in rows} == organizations
    assert set(rows[0].keys()) == {"organization_id", "id", "addon_key", "version", "status", "source"}


async def test_events_are_numbered_without_gaps_per_organization_and_over_all(kernel_db: Database) -> None:
    one, other = new_uuid(), new_uuid()
    ids = [await write_event(kernel_db, organization) for organization in (one, other, one, one, other)]
    first = await number(kernel_db, batch=3)
    ids.append(await write_event(kernel_db, other))
    second = await number(kernel_db)
    rows = [*first, *second]

    assert len(first) == 3
    assert [row["id"] for row in rows] == ids
    assert [row["position"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert sequences(rows) == {one: [1, 2, 3], other: [1, 2, 3]}
    assert await number(kernel_db) == []
    assert [dict(row) for row in await kernel_db.postgres.fetch("SELECT * FROM metacore_events_after(2, 3)")] == [
        dict(row) for row in rows[2:5]
    ]


async def test_an_event_committed_late_is_numbered_later(kernel_db: Database) -> None:
    one = new_uuid()
    async with kernel_db.postgres.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        early_id = await slow.fetchval(INSERT_EVENT, str(one), "shop.order.slow")
        late_id = await write_event(kernel_db, one)
        assert early_id < late_id
        assert [row["id"] for row in await number(kernel_db)] == [late_id]
        await transaction.commit()
    rows = await number(kernel_db)
    assert [(row["id"], row["sequence_num"], row["position"]) for row in rows] == [(early_id, 2, 2)]


async def test_a_numbering_that_is_rolled_back_leaves_no_gap(kernel_db: Database) -> None:
    one = new_uuid()
    await write_event(kernel_db, one)
    async with kernel_db.postgres.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch("SELECT * FROM metacore_number_events(10)")
        await transaction.rollback()
    assert sequences(await number(kernel_db)) == {one: [1]}


async def test_numberers_and_writers_at_once_make_one_gapless_order(
    kernel_db: Database, database_urls: DatabaseUrls
) -> None:
    organizations = [new_uuid() for _ in range(3)]
    rivals = [await Database.connect(database_urls.kernel, pool_size=1) for _ in range(3)]
    seen: list[asyncpg.Record] = []

    async def keep_numbering(database: Database, stop: asyncio.Event) -> None:
        while not stop.is_set():
            seen.extend(await number(database, batch=7))

    async def keep_writing(organization: UUID) -> None:
        for _ in range(40):
            await write_event(kernel_db, organization)

    stop = asyncio.Event()
    try:
        numberers = [asyncio.create_task(keep_numbering(rival, stop)) for rival in rivals]
        await asyncio.gather(*(keep_writing(organization) for organization in organizations))
        stop.set()
        await asyncio.gather(*numberers)
        seen.extend(await number(kernel_db))
    finally:
        for rival in rivals:
            await rival.close()

    by_position = sorted(seen, key=lambda row: row["position"])
    assert [row["position"] for row in by_position] == list(range(1, 121))
    assert sequences(by_position) == {organization: list(range(1, 41)) for organization in organizations}
    stored = await kernel_db.postgres.fetch("SELECT * FROM metacore_events_after(0, 1000)")
    assert [row["id"] for row in stored] == [row["id"] for row in by_position]


async def test_counters_and_unnumbered_columns_are_out_of_the_kernel_roles_reach(kernel_db: Database) -> None:
    await write_event(kernel_db, new_uuid())
    for statement in (
        "UPDATE metacore_events SET position = 1",
        "UPDATE metacore_event_counters SET value = 0",
        "SELECT * FROM metacore_event_counters",
        "DELETE FROM metacore_events",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await kernel_db.postgres.execute(statement)
