"""A whole kernel: a row changed over HTTP reaches a browser's WebSocket, and a logout ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest
from fastapi import FastAPI
from tests.applications import new_app, register, started
from tests.arrivals import PATIENCE
from tests.conftest import DatabaseUrls
from tests.served import serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from metacore import App
from metacore.db.database import Database
from metacore.events.bus import BusEvent
from metacore.ws.messages import Message, MessageType
from metacore.ws.protocol import UVICORN_OPTIONS


@dataclass
class Running:
    app: App
    client: httpx2.AsyncClient
    address: str

    @asynccontextmanager
    async def listening(self, headers: dict[str, str]) -> AsyncIterator[ClientConnection]:
        token = headers["Authorization"].removeprefix("Bearer ")
        before = len(self.app.hub)
        async with connect(f"ws://{self.address}/api/ws?token={token}", proxy=None) as socket:
            # The pong comes behind the handshake, so the hub knows this client then.
            await (await socket.ping())
            assert len(self.app.hub) == before + 1
            yield socket


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest) -> str | Database:
    if request.param == "postgresql":
        urls: DatabaseUrls = request.getfixturevalue("database_urls")
        return urls.owner
    opened: Database = request.getfixturevalue("sqlite_db")
    return opened


@pytest.fixture
async def running(database: str | Database) -> AsyncIterator[Running]:
    app = new_app(database, heartbeat_interval=3600)

    async def tell(event: BusEvent) -> None:
        app.hub.send_conditional(
            lambda one: one.principal.organization_id == event.organization_id,
            Message(MessageType.STATUS_UPDATE, {"event": event.name, **event.payload}),
        )

    app.bus.subscribe("kernel", "kernel.gadgets.*", tell)
    web = FastAPI()
    app.mount(web)
    async with started(web) as client, serving(web, **UVICORN_OPTIONS) as (address, _):
        yield Running(app, client, address)


async def test_a_change_of_a_row_reaches_the_organization_and_nobody_else(running: Running) -> None:
    ada, eve = await register(running.client, "ada@example.com"), await register(running.client, "eve@example.com")
    async with running.listening(ada) as hers, running.listening(eve) as others, asyncio.timeout(PATIENCE):
        created = await running.client.post("/api/dynamic/gadgets", json={"name": "lamp", "pin": "1234"}, headers=ada)
        assert created.status_code == 201, created.text
        row = created.json()["data"]
        await running.client.patch(f"/api/dynamic/gadgets/{row['id']}", json={"name": "torch"}, headers=ada)
        await running.client.delete(f"/api/dynamic/gadgets/{row['id']}", headers=ada)
        messages = [json.loads(await hers.recv()) for _ in range(3)]
        await running.client.post("/api/dynamic/gadgets", json={"name": "hers"}, headers=eve)
        foreign = json.loads(await others.recv())
    assert {message["type"] for message in messages} == {"STATUS_UPDATE"}
    payloads = [message["payload"] for message in messages]
    assert [payload["event"] for payload in payloads] == [
        "kernel.gadgets.created",
        "kernel.gadgets.updated",
        "kernel.gadgets.deleted",
    ]
    assert {payload["id"] for payload in payloads} == {row["id"]}
    assert payloads[0]["after"]["name"] == "lamp"
    assert (payloads[1]["before"]["name"], payloads[1]["after"]["name"]) == ("lamp", "torch")
    assert "1234" not in json.dumps(messages)
    assert foreign["payload"]["after"]["name"] == "hers"


async def test_a_logout_ends_the_connections_of_that_session(running: Running) -> None:
    ada, eve = await register(running.client, "ada@example.com"), await register(running.client, "eve@example.com")
    async with running.listening(ada) as hers, running.listening(eve) as others, asyncio.timeout(PATIENCE):
        assert (await running.client.post("/api/auth/logout", headers=ada)).status_code == 200
        with pytest.raises(ConnectionClosed) as end:
            await hers.recv()
        assert end.value.rcvd is not None and end.value.rcvd.code == 4401
        await (await others.ping())
    assert len(running.app.hub) == 0
