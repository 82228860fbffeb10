"""Tenants on PostgreSQL: whatever plan is chosen and whoever had the connection before, nobody sees another's rows."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, principal
from tests.live_models import TICKET, Desk

from metacore.db.database import Database
from metacore.dynamic.service import DynamicService
from metacore.errors import NotFound
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType, Isolation, ModelDefinition

SWITCHES = (
    "enable_seqscan",
    "enable_indexscan",
    "enable_indexonlyscan",
    "enable_bitmapscan",
    "enable_nestloop",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_material",
    "enable_memoize",
    "enable_sort",
    "enable_hashagg",
)
PLANS = [
    {"plan_cache_mode": "force_generic_plan"},
    {"plan_cache_mode": "force_custom_plan"},
    *({switch: "off"} for switch in SWITCHES),
    dict.fromkeys(("enable_nestloop", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"), "off"),
    dict.fromkeys(("enable_nestloop", "enable_hashjoin", "enable_seqscan"), "off"),
    dict.fromkeys(("enable_nestloop", "enable_mergejoin", "enable_indexscan"), "off"),
    {"from_collapse_limit": "1", "join_collapse_limit": "1"},
    {"parallel_setup_cost": "0", "parallel_tuple_cost": "0", "min_parallel_table_scan_size": "0"},
    {"jit": "on", "jit_above_cost": "0"},
    {"random_page_cost": "1000", "cpu_operator_cost": "0"},
    dict.fromkeys(SWITCHES, "off"),
]

Tenants = tuple[Principal, Principal]


@pytest.fixture
async def tenants(owner_db: Database) -> Tenants:
    return principal(await make_organization(owner_db, "Acme")), principal(await make_organization(owner_db, "Evil"))


@pytest.fixture
async def desk(kernel_db: Database, owner_db: Database, tenants: Tenants) -> Desk:
    desk = Desk(kernel_db, owner_db)
    await desk.add(TICKET, unique=["code"])
    desk.install_for(*(tenant.organization_id for tenant in tenants))
    return desk


@asynccontextmanager
async def serving(desk: Desk, url: str, settings: dict[str, str]) -> AsyncIterator[DynamicService]:
    """A service whose connections start with these settings."""
    options = "&".join(f"{name}={value}" for name, value in settings.items())
    database = await Database.connect(f"{url}?{options}", pool_size=1)
    try:
        yield DynamicService(database, desk.registry, coalesce=False)
    finally:
        await database.close()


async def everything_twice(service: DynamicService, tenants: Sequence[Principal]) -> None:
    """Every statement there is, in turn for both tenants, until PostgreSQL has settled on a generic plan."""
    for round_number in range(7):
        made: dict[uuid.UUID, dict[str, Any]] = {}
        for who in tenants:
            made[who.organization_id] = await service.create(
                who, "Ticket", {"title": f"t{round_number}", "body": "50% of it", "price": round_number}
            )
        for who, other in (tenants, tenants[::-1]):
            mine, theirs = made[who.organization_id], made[other.organization_id]
            row_id, foreign_id = uuid.UUID(mine["id"]), uuid.UUID(theirs["id"])
            assert await service.get(who, "Ticket", row_id) == mine
            for params in (
                [("page", "1")],
                [("search", "50%"), ("f_price", "gte:0"), ("f_status", "in:open,closed")],
                [("cursor", ""), ("sortBy", "title"), ("order", "asc")],
                [("page", "1"), ("count", "capped")],
                [("f_title", f"t{round_number}")],
            ):
                rows, meta = await service.list(who, "Ticket", [*params, ("per_page", "200")])
                assert {row["organization_id"] for row in rows} == {str(who.organization_id)}
                assert mine["id"] in {row["id"] for row in rows}
                assert meta["total"] == len(rows)
            changed = await service.update(who, "Ticket", row_id, {"status": "waiting", "body": None})
            assert (changed["status"], changed["body"]) == ("waiting", None)
            changed = await service.update(who, "Ticket", row_id, {"title": "seen"})
            assert await service.get(who, "Ticket", row_id) == changed
            for attempt in (
                service.get(who, "Ticket", foreign_id),
                service.update(who, "Ticket", foreign_id, {"title": "stolen"}),
                service.update(who, "Ticket", foreign_id, {"status": "closed"}),
                service.delete(who, "Ticket", foreign_id),
            ):
                with pytest.raises(NotFound):
                    await attempt
        await service.delete(tenants[0], "Ticket", uuid.UUID(made[tenants[0].organization_id]["id"]))
        await service.create(tenants[0], "Ticket", {"title": "stays"})


@pytest.mark.parametrize("settings", PLANS, ids=lambda settings: ",".join(settings)[:60])
async def test_no_plan_shows_or_hides_a_row(
    desk: Desk, database_urls: DatabaseUrls, tenants: Tenants, settings: dict[str, str]
) -> None:
    async with serving(desk, database_urls.kernel, settings) as service:
        await everything_twice(service, tenants)


async def test_no_plan_of_an_analyzed_table_shows_or_hides_a_row(
    desk: Desk, owner_db: Database, database_urls: DatabaseUrls, tenants: Tenants
) -> None:
    for settings in ({"plan_cache_mode": "force_custom_plan"}, {"plan_cache_mode": "force_generic_plan"}):
        async with serving(desk, database_urls.kernel, settings) as service:
            await everything_twice(service, tenants)
            await owner_db.postgres.execute("ANALYZE addon_desk.tickets")
            await everything_twice(service, tenants)


async def test_one_role_for_everything_is_held_too(desk: Desk, database_urls: DatabaseUrls, tenants: Tenants) -> None:
    """As a program that embeds the kernel may run it: the owner serves."""
    async with serving(desk, database_urls.owner, {}) as service:
        await everything_twice(service, tenants)


async def test_nothing_stays_on_a_connection(desk: Desk, database_urls: DatabaseUrls, tenants: Tenants) -> None:
    database = await Database.connect(f"{database_urls.kernel}?timezone=Asia/Kolkata", pool_size=1)
    try:
        service = DynamicService(database, desk.registry)
        await everything_twice(service, tenants)
        for failing in (
            service.create(tenants[0], "Ticket", {"title": "a", "code": "AB-1"}),
            service.create(tenants[0], "Ticket", {"title": "b", "code": "AB-1"}),
        ):
            await asyncio.gather(failing, return_exceptions=True)
        async with database.postgres.acquire() as connection:
            assert await connection.fetchval("SELECT current_setting('app.current_org', true)") in (None, "")
            assert await connection.fetchval("SHOW timezone") == "Asia/Kolkata"
            assert await connection.fetchval("SELECT count(*) FROM addon_desk.tickets") == 0
            assert await connection.fetchval("SELECT count(*) FROM metacore_events") == 0
    finally:
        await database.close()


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "UTC"])
async def test_times_come_out_in_utc_whatever_the_sessions_zone(
    desk: Desk, database_urls: DatabaseUrls, tenants: Tenants, zone: str
) -> None:
    async with serving(desk, database_urls.kernel, {"timezone": zone}) as service:
        made = await service.create(tenants[0], "Ticket", {"title": "x", "seen_at": "2026-03-29T02:30:00+01:00"})
        assert made["seen_at"] == "2026-03-29T01:30:00+00:00"
        assert made["created_at"].endswith("+00:00")
        rows, _ = await service.list(tenants[0], "Ticket", [("f_seen_at", "2026-03-29T01:30:00Z")])
        assert rows == [made]
        assert await service.get(tenants[0], "Ticket", uuid.UUID(made["id"])) == made


@pytest.mark.parametrize("coalesce", [True, False])
async def test_two_tenants_at_once_on_few_connections_never_mix(
    desk: Desk, database_urls: DatabaseUrls, tenants: Tenants, coalesce: bool
) -> None:
    database = await Database.connect(database_urls.kernel, pool_size=2)
    chance = random.Random(3)
    known: dict[uuid.UUID, list[uuid.UUID]] = {tenant.organization_id: [] for tenant in tenants}

    async def wander(who: Principal, other: Principal) -> None:
        for _ in range(12):
            choice = chance.randrange(5)
            mine = known[who.organization_id]
            theirs = known[other.organization_id]
            if choice == 0 or not mine:
                made = await service.create(who, "Ticket", {"title": "x"})
                assert made["organization_id"] == str(who.organization_id)
                mine.append(uuid.UUID(made["id"]))
            elif choice == 1:
                so_far = len(mine)
                rows, meta = await service.list(who, "Ticket", [("per_page", "50")])
                assert {row["organization_id"] for row in rows} == {str(who.organization_id)}
                assert meta["total"] >= so_far
            elif choice == 2 and theirs:
                with pytest.raises(NotFound):
                    await service.get(who, "Ticket", chance.choice(theirs))
            elif choice == 3:
                row = await service.get(who, "Ticket", chance.choice(mine))
                assert row["organization_id"] == str(who.organization_id)
            else:
                row = await service.update(who, "Ticket", chance.choice(mine), {"title": "y"})
                assert row["organization_id"] == str(who.organization_id)

    try:
        service = DynamicService(database, desk.registry, coalesce=coalesce)
        await asyncio.gather(*(wander(*pair) for pair in (tenants, tenants[::-1]) * 12))
    finally:
        await database.close()
    for event in await desk.events():
        owners = {row["organization_id"] for row in (event["data"].get("before"), event["data"].get("after")) if row}
        assert owners == {str(event["organization_id"])}


async def test_one_schema_per_tenant_keeps_tenants_in_tables_of_their_own(
    desk: Desk, owner_db: Database, tenants: Tenants
) -> None:
    note = ModelDefinition(key="Note", table="notes", columns=(Column(name="text", type=ColumnType.TEXT),))
    ada, eve = tenants
    await desk.add(note, isolation=Isolation.SCHEMA_PER_TENANT, tenants=[tenant.organization_id for tenant in tenants])
    service = DynamicService(desk.serving, desk.registry)
    made = await service.create(ada, "Note", {"text": "x"})
    assert (await service.list(ada, "Note"))[0] == [made]
    assert (await service.list(eve, "Note"))[0] == []
    async with owner_db.engine.connect() as connection:
        schema = f"addon_desk_{ada.organization_id.hex[:8]}"
        assert await connection.scalar(sa.text(f"SELECT count(*) FROM {schema}.notes")) == 1


async def test_an_update_tells_the_row_that_it_replaced(desk: Desk, tenants: Tenants) -> None:
    """The event's `before` is the version that was overwritten, however many write at once."""
    ada = tenants[0]
    service = DynamicService(desk.serving, desk.registry)
    made = await service.create(ada, "Ticket", {"title": "0", "quantity": 0})
    row_id = uuid.UUID(made["id"])
    await asyncio.gather(*(service.update(ada, "Ticket", row_id, {"body": str(number)}) for number in range(20)))
    updates = [event["data"] for event in await desk.events() if event["event_type"].endswith("updated")]
    assert len(updates) == 20
    after = {update["after"]["body"] for update in updates}
    before = [update["before"]["body"] for update in updates]
    assert len(set(before)) == 20, "each version was replaced once"
    assert set(before) - after == {None}


async def test_counting_can_be_left_to_the_planner(desk: Desk, owner_db: Database, tenants: Tenants) -> None:
    ada, eve = tenants
    await owner_db.postgres.execute(
        "INSERT INTO addon_desk.tickets (organization_id, title, status, created_at)"
        " SELECT $1, 'many', CASE WHEN number % 10 = 0 THEN 'closed' ELSE 'open' END, now() - number * interval '1 s'"
        " FROM generate_series(1, 12000) AS number",
        ada.organization_id,
    )
    await owner_db.postgres.execute("ANALYZE addon_desk.tickets")
    service = DynamicService(desk.serving, desk.registry)
    _, meta = await service.list(ada, "Ticket", [("count", "estimated")])
    assert meta["count"] == "estimated"
    assert 6_000 <= meta["total"] <= 24_000
    _, meta = await service.list(ada, "Ticket", [("count", "capped")])
    assert (meta["count"], meta["total"], meta["last_page"]) == ("capped", 10_000, 500)
    _, meta = await service.list(ada, "Ticket", [("count", "exact"), ("f_status", "closed")])
    assert (meta["count"], meta["total"]) == ("exact", 1_200)
    _, meta = await service.list(eve, "Ticket", [("count", "estimated")])
    assert (meta["count"], meta["total"]) == ("exact", 0)
