"""Shared statements on a real PostgreSQL: everybody gets the own answer, once, whatever happens to the others."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, principal
from tests.live_models import TICKET, Desk

from metacore.db.database import Database
from metacore.dynamic import service as service_module
from metacore.dynamic.connections import HotConnections
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.service import DynamicService
from metacore.errors import Conflict, InvalidInput, NotFound
from metacore.identity import Principal
from metacore.ids import new_uuid

CALLERS = 64


@pytest.fixture
async def desk(kernel_db: Database, owner_db: Database) -> Desk:
    desk = Desk(kernel_db, owner_db)
    await desk.add(TICKET, unique=["code"])
    return desk


@pytest.fixture
async def ada(desk: Desk) -> Principal:
    who = principal(await make_organization(desk.owner, "Acme"))
    desk.install_for(who.organization_id)
    return who


@pytest.fixture
def service(desk: Desk) -> DynamicService:
    return DynamicService(desk.serving, desk.registry)


@pytest.fixture
def inserts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each insert statement carried."""
    sizes: list[int] = []
    original = PostgresRows._insert

    async def counted(self: PostgresRows, shape: Any, who: Any, names: Any, rows: Sequence[Any]) -> Any:
        sizes.append(len(rows))
        return await original(self, shape, who, names, rows)

    monkeypatch.setattr(PostgresRows, "_insert", counted)
    return sizes


@asynccontextmanager
async def locked_table(desk: Desk) -> AsyncIterator[None]:
    """Nobody can read or write tickets meanwhile."""
    async with desk.owner.postgres.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE addon_desk.tickets IN ACCESS EXCLUSIVE MODE")
        yield


async def backends_waiting(urls: DatabaseUrls, count: int) -> list[int]:
    """The process ids of `count` connections of the kernel that wait for a lock, once there are so many."""
    connection = await asyncpg.connect(urls.superuser)
    try:
        async with asyncio.timeout(30):
            while True:
                found = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND usename = 'metacore_kernel' AND wait_event_type = 'Lock'"
                )
                if len(found) >= count:
                    return [row["pid"] for row in found]
    finally:
        await connection.close()


async def stored_titles(desk: Desk) -> list[str]:
    rows = await desk.owner.postgres.fetch("SELECT title FROM addon_desk.tickets ORDER BY title")
    return [row["title"] for row in rows]


async def test_many_creates_share_few_statements_and_each_gets_its_row(
    desk: Desk, service: DynamicService, ada: Principal, inserts: list[int]
) -> None:
    made = await asyncio.gather(
        *(service.create(ada, "Ticket", {"title": f"t{number:02}"}) for number in range(CALLERS))
    )
    assert [row["title"] for row in made] == [f"t{number:02}" for number in range(CALLERS)]
    assert await stored_titles(desk) == [f"t{number:02}" for number in range(CALLERS)]
    assert sum(inserts) == CALLERS
    assert len(inserts) < CALLERS / 4
    after = {event["data"]["id"]: event["data"]["after"] for event in await desk.events()}
    assert after == {row["id"]: row for row in made}


async def test_each_author_signs_the_own_row_in_a_shared_statement(
    desk: Desk, service: DynamicService, ada: Principal, inserts: list[int]
) -> None:
    people = [principal(ada.organization_id) for _ in range(16)]
    made = await asyncio.gather(*(service.create(who, "Ticket", {"title": "x"}) for who in people))
    assert [row["created_by_id"] for row in made] == [str(who.user_id) for who in people]
    assert len(inserts) < len(people)
    actors = {event["data"]["id"]: event["actor_id"] for event in await desk.events()}
    assert actors == {row["id"]: who.user_id for row, who in zip(made, people, strict=True)}


async def test_one_bad_row_fails_alone(desk: Desk, service: DynamicService, ada: Principal) -> None:
    await service.create(ada, "Ticket", {"title": "first", "code": "AB-0"})
    outcomes = await asyncio.gather(
        *(
            service.create(ada, "Ticket", {"title": f"t{number:02}", "code": f"AB-{number % 40}"})
            for number in range(CALLERS)
        ),
        return_exceptions=True,
    )
    good = [one for one in outcomes if isinstance(one, dict)]
    assert all(isinstance(one, dict | Conflict) for one in outcomes)
    assert sorted({row["code"] for row in good}) == sorted(f"AB-{number}" for number in range(1, 40))
    assert len(good) == 39
    assert len(await desk.events()) == 40


async def test_many_gets_share_statements_and_each_gets_its_row(
    desk: Desk, service: DynamicService, ada: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await service.create(ada, "Ticket", {"title": str(number)}) for number in range(20)]
    sizes: list[int] = []
    original = PostgresRows._bodies

    async def counted(self: PostgresRows, shape: Any, organization: Any, ids: Sequence[Any]) -> Any:
        sizes.append(len(ids))
        return await original(self, shape, organization, ids)

    monkeypatch.setattr(PostgresRows, "_bodies", counted)
    wanted = [made[number % 20] for number in range(CALLERS)]
    missing = [new_uuid() for _ in range(8)]
    found = await asyncio.gather(
        *(service.get(ada, "Ticket", uuid.UUID(row["id"])) for row in wanted),
        *(service.get(ada, "Ticket", row_id) for row_id in missing),
        return_exceptions=True,
    )
    assert found[:CALLERS] == wanted
    assert all(isinstance(one, NotFound) for one in found[CALLERS:])
    assert len(sizes) < CALLERS / 4


async def test_callers_of_different_roles_and_organizations_share_nothing(
    desk: Desk, service: DynamicService, ada: Principal, inserts: list[int]
) -> None:
    eve = principal(await make_organization(desk.owner, "Evil"))
    desk.install_for(eve.organization_id)
    agent = principal(ada.organization_id, role="agent")
    made = await asyncio.gather(
        *(service.create(who, "Ticket", {"title": "x"}) for who in (ada, eve, agent) for _ in range(2))
    )
    assert [row["organization_id"] for row in made] == [
        str(who.organization_id) for who in (ada, ada, eve, eve, agent, agent)
    ]
    assert inserts == [1] * 6, "three lanes, and in each the second had to wait for the first"


async def test_a_read_sees_everything_that_was_committed_when_it_came(service: DynamicService, ada: Principal) -> None:
    known: set[str] = set()

    async def write_and_read(number: int) -> None:
        for _ in range(4):
            made = await service.create(ada, "Ticket", {"title": str(number)})
            known.add(made["id"])
            before = set(known)
            rows, meta = await service.list(ada, "Ticket", [("per_page", "200")])
            assert before <= {row["id"] for row in rows} or meta["total"] > 200
            assert meta["total"] >= len(before)
            assert await service.get(ada, "Ticket", uuid.UUID(made["id"])) == made
            changed = await service.update(ada, "Ticket", uuid.UUID(made["id"]), {"body": "b"})
            assert (await service.get(ada, "Ticket", uuid.UUID(made["id"]))) == changed

    await asyncio.gather(*(write_and_read(number) for number in range(24)))


async def test_a_caller_that_goes_away_cancels_nobody_else(
    desk: Desk, service: DynamicService, ada: Principal, database_urls: DatabaseUrls
) -> None:
    async with locked_table(desk):
        tasks = [asyncio.create_task(service.create(ada, "Ticket", {"title": f"t{number}"})) for number in range(6)]
        await backends_waiting(database_urls, 1)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.gather(tasks[0], tasks[3], return_exceptions=True)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) is dict for one in outcomes] == [False, True, True, False, True, True]
    assert set(await stored_titles(desk)) >= {"t1", "t2", "t4", "t5"}
    assert "t0" not in await stored_titles(desk)


async def test_a_connection_that_dies_before_the_commit_loses_no_row_and_doubles_none(
    desk: Desk, service: DynamicService, ada: Principal, database_urls: DatabaseUrls
) -> None:
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        async with locked_table(desk):
            tasks = [asyncio.create_task(service.create(ada, "Ticket", {"title": f"t{number}"})) for number in range(5)]
            for pid in await backends_waiting(database_urls, 2):
                await admin.execute("SELECT pg_terminate_backend($1)", pid)
        made = await asyncio.gather(*tasks)
    finally:
        await admin.close()
    assert await stored_titles(desk) == [f"t{number}" for number in range(5)]
    assert sorted(event["data"]["id"] for event in await desk.events()) == sorted(row["id"] for row in made)


async def test_a_reply_that_is_lost_after_the_commit_doubles_no_row(
    desk: Desk, service: DynamicService, ada: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 0
    original = HotConnections.fetch

    async def fetch(self: HotConnections, query: str, arguments: Sequence[Any]) -> Any:
        nonlocal lost
        answer = await original(self, query, arguments)
        if "INSERT INTO addon_desk" in query and not lost:
            lost += 1
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return answer

    monkeypatch.setattr(HotConnections, "fetch", fetch)
    made = await asyncio.gather(*(service.create(ada, "Ticket", {"title": f"t{number}"}) for number in range(5)))
    assert lost == 1
    assert [row["title"] for row in made] == await stored_titles(desk)
    assert len(await desk.events()) == 5


async def test_a_statement_that_the_server_finishes_in_the_background_doubles_no_row(
    desk: Desk,
    service: DynamicService,
    ada: Principal,
    database_urls: DatabaseUrls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection seems dead, the row is not there yet, and then it is committed after all."""
    row_id = new_uuid()
    monkeypatch.setattr(service_module, "new_uuid", lambda: row_id)
    original = HotConnections.fetch
    lost = 0

    async def fetch(self: HotConnections, query: str, arguments: Sequence[Any]) -> Any:
        nonlocal lost
        if "INSERT INTO addon_desk" in query and not lost:
            lost += 1
            raise ConnectionResetError
        return await original(self, query, arguments)

    monkeypatch.setattr(HotConnections, "fetch", fetch)
    async with desk.owner.postgres.acquire() as background:
        transaction = background.transaction()
        await transaction.start()
        await background.execute(
            "INSERT INTO addon_desk.tickets (id, organization_id, title) VALUES ($1, $2, 'only once')",
            row_id,
            ada.organization_id,
        )
        task = asyncio.create_task(service.create(ada, "Ticket", {"title": "only once"}))
        await backends_waiting(database_urls, 1)
        await transaction.commit()
    assert (await task)["id"] == str(row_id)
    assert await stored_titles(desk) == ["only once"]


async def test_reads_survive_a_restart_of_the_connections(
    desk: Desk, service: DynamicService, ada: Principal, database_urls: DatabaseUrls
) -> None:
    made = await service.create(ada, "Ticket", {"title": "x"})
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE usename = 'metacore_kernel' AND datname = current_database()"
        )
    finally:
        await admin.close()
    assert await service.get(ada, "Ticket", uuid.UUID(made["id"])) == made


async def test_validation_stays_per_caller_in_a_shared_statement(service: DynamicService, ada: Principal) -> None:
    outcomes = await asyncio.gather(
        *(service.create(ada, "Ticket", {"title": "x", "priority": number}) for number in (1, "two", 3)),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [dict, InvalidInput, dict]
