"""What only SQLite has: one writer, one connection in memory, several services in one process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.factories import make_organization, principal
from tests.live_models import TICKET, Desk

from metacore.db.database import Database
from metacore.db.migrate import create_all
from metacore.dynamic.service import DynamicService
from metacore.errors import Conflict
from metacore.identity import Principal


@pytest.fixture(params=["file", "memory"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'desk.db'}"
    database = await Database.connect(url)
    try:
        await create_all(database)
        desk = Desk(database, database)
        await desk.add(TICKET, unique=["code"])
        yield desk
    finally:
        await database.close()


@pytest.fixture
async def ada(desk: Desk) -> Principal:
    who = principal(await make_organization(desk.owner))
    desk.install_for(who.organization_id)
    return who


async def test_many_writers_and_readers_at_once_lose_nothing(desk: Desk, ada: Principal) -> None:
    services = [DynamicService(desk.serving, desk.registry) for _ in range(2)]

    async def work(number: int) -> str:
        service = services[number % 2]
        made = await service.create(ada, "Ticket", {"title": str(number)})
        row_id = uuid.UUID(made["id"])
        changed = await service.update(ada, "Ticket", row_id, {"body": "seen"})
        assert await service.get(ada, "Ticket", row_id) == changed
        rows, _ = await service.list(ada, "Ticket", [("per_page", "100")])
        assert made["id"] in {row["id"] for row in rows}
        return str(made["title"])

    titles = await asyncio.gather(*(work(number) for number in range(24)))
    rows, meta = await services[0].list(ada, "Ticket", [("per_page", "100")])
    assert sorted(row["title"] for row in rows) == sorted(titles)
    assert meta["total"] == 24
    assert len(await desk.events()) == 48


async def test_a_refused_write_among_many_takes_nobody_along(desk: Desk, ada: Principal) -> None:
    service = DynamicService(desk.serving, desk.registry)
    outcomes = await asyncio.gather(
        *(service.create(ada, "Ticket", {"title": "x", "code": f"AB-{number % 6}"}) for number in range(12)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, dict) for one in outcomes) == 6
    assert sum(isinstance(one, Conflict) for one in outcomes) == 6
    assert len(await desk.events()) == 6
