"""Real clients at a real server: who gets in, what they get, how they are thrown out.

Everything holds twice: past the application through our uvicorn protocol, and through plain ASGI as under any server.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.arrivals import PATIENCE, Arrivals
from tests.factories import principal
from tests.served import serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from metacore.api.middleware import RequestMiddleware
from metacore.api.ws import build_ws_router
from metacore.errors import Unauthenticated, Unavailable
from metacore.identity import Principal
from metacore.ids import UserId
from metacore.ws import protocol as protocols
from metacore.ws import queued as queues
from metacore.ws.connection import Connection
from metacore.ws.hub import Hub
from metacore.ws.messages import Message
from metacore.ws.protocol import EXTENSION, UVICORN_OPTIONS, BroadcastProtocol

ACME = uuid.uuid4()


class WatchedHub(Hub):
    """Tells when clients come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: Arrivals[Connection] = Arrivals()
        self.left: Arrivals[Connection] = Arrivals()

    def connect(self, *arguments: Any, **options: Any) -> Connection:
        connection = super().connect(*arguments, **options)
        self.joined(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        if connection in self._all:
            super().disconnect(connection)
            self.left(connection)


class WatchedProtocol(BroadcastProtocol):
    lost: Arrivals[BroadcastProtocol]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost(self)


Known = Principal | Exception | Callable[[], Awaitable[Principal]]


@dataclass
class Place:
    """A server, its hub, and the tokens that it knows."""

    hub: WatchedHub
    lost: Arrivals[BroadcastProtocol]
    address: str = ""
    server: uvicorn.Server = field(init=False)
    tokens: dict[str, Known] = field(default_factory=dict)

    def token_for(self, who: Known) -> str:
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = who
        return token

    def url(self, token: str, more: str = "") -> str:
        return f"ws://{self.address}/api/ws?token={token}{more}"

    @asynccontextmanager
    async def client(self, who: Principal, more: str = "") -> AsyncIterator[ClientConnection]:
        expected = len(self.hub.joined.items) + 1
        async with connect(self.url(self.token_for(who), more), compression=None, proxy=None) as client:
            await self.hub.joined.reach(expected)
            yield client


class PlainServer:
    """Hides what only our uvicorn protocol offers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            del scope["extensions"][EXTENSION]
        await self.app(scope, receive, send)


@pytest.fixture(params=["direct", "plain"])
async def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    hub = WatchedHub()
    place = Place(hub, Arrivals())

    async def authenticate(token: str) -> Principal:
        known = place.tokens.get(token, Unauthenticated("unknown token"))
        if isinstance(known, Exception):
            raise known
        return known if isinstance(known, Principal) else await known()

    monkeypatch.setattr(WatchedProtocol, "lost", place.lost, raising=False)
    app = FastAPI()
    app.include_router(build_ws_router(hub, authenticate), prefix="/api")
    app.add_middleware(RequestMiddleware)
    if request.param == "plain":
        app.add_middleware(PlainServer)
    options = {**UVICORN_OPTIONS, "ws": WatchedProtocol}
    if request.param == "plain":
        # Other servers take larger messages; the endpoint has the last word.
        options["ws_max_size"] = 1 << 20
    async with serving(app, **options) as (place.address, place.server):
        yield place


async def closed(client: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as end:
            while True:
                await client.recv()
    assert end.value.rcvd is not None
    return end.value.rcvd.code, end.value.rcvd.reason


async def test_a_client_with_a_token_gets_messages_as_json(place: Place) -> None:
    ada = principal(ACME)
    async with place.client(ada) as client:
        assert place.hub.connected_users() == {ada.user_id}
        assert place.hub.send_to_user(ada.user_id, Message("NOTIFICATION", {"title": "hé"})) == 1
        text = await client.recv()
    assert isinstance(text, str)
    assert json.loads(text) == {"type": "NOTIFICATION", "payload": {"title": "hé"}}
    await place.hub.left.reach(1)
    assert place.hub.connected_users() == frozenset()


@pytest.mark.parametrize("query", ["", "?token=", "?token=forged", "?channel=x"])
async def test_without_a_good_token_there_is_no_upgrade(place: Place, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{place.address}/api/ws{query}", proxy=None)
    response = refused.value.response
    assert response.status_code == 401
    body = json.loads(response.body or b"")
    assert body["success"] is False and body["code"] == "unauthenticated"
    assert response.headers["X-Request-ID"]
    assert place.hub.joined.items == []


@pytest.mark.parametrize("error", [Unavailable("database away"), asyncpg.CannotConnectNowError("away")])
async def test_a_check_that_cannot_be_made_is_503(place: Place, error: Exception) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(place.url(place.token_for(error)), proxy=None)
    assert refused.value.response.status_code == 503


async def test_a_channel_that_is_too_long_is_400(place: Place) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(place.url(place.token_for(principal(ACME)), "&channel=" + "c" * 129), proxy=None)
    assert refused.value.response.status_code == 400


async def test_the_handshake_carries_the_request_id(place: Place) -> None:
    url = place.url(place.token_for(principal(ACME)))
    async with connect(url, proxy=None, additional_headers={"X-Request-ID": "abc"}) as client:
        assert client.response is not None
        assert client.response.headers["X-Request-ID"] == "abc"


async def test_messages_are_not_compressed_even_when_the_client_would_like_to(place: Place) -> None:
    async with connect(place.url(place.token_for(principal(ACME))), proxy=None) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def test_the_channel_tags_the_connection(place: Place) -> None:
    ada = principal(ACME)
    async with place.client(ada, "&channel=board") as board, place.client(ada, "&channel=list") as other:
        place.hub.send_conditional(lambda one: one.channel == "board", Message("CUSTOM", 1))
        place.hub.send_to_user(ada.user_id, Message("CUSTOM", 2))
        assert [json.loads(await board.recv())["payload"] for _ in range(2)] == [1, 2]
        assert json.loads(await other.recv())["payload"] == 2


@pytest.mark.parametrize("size", [1, 200, 70_000, 1_000_000])
async def test_messages_of_every_size_arrive_whole_and_in_order(place: Place, size: int) -> None:
    ada = principal(ACME)
    url = place.url(place.token_for(ada))
    async with connect(url, max_size=None, proxy=None) as client:
        await place.hub.joined.reach(1)
        for number in range(3):
            place.hub.send_to_user(ada.user_id, Message("CUSTOM", [number, "x" * size]))
        for number in range(3):
            assert json.loads(await client.recv())["payload"] == [number, "x" * size]


async def test_pings_are_answered(place: Place) -> None:
    async with place.client(principal(ACME)) as client:
        async with asyncio.timeout(PATIENCE):
            await (await client.ping())


async def test_what_a_client_says_reaches_the_hook(place: Place) -> None:
    heard: Arrivals[tuple[UserId, str]] = Arrivals()
    place.hub.on_message(lambda connection, text: heard((connection.principal.user_id, text)))
    ada = principal(ACME)
    async with place.client(ada) as client:
        await client.send(b"binary is ignored")
        await client.send("hello")
        await heard.reach(1)
    assert heard.items == [(ada.user_id, "hello")]


async def test_a_message_beyond_the_limit_closes_with_1009(place: Place) -> None:
    async with place.client(principal(ACME)) as client:
        await client.send("x" * (protocols.MAX_INBOUND_BYTES + 1))
        assert (await closed(client))[0] == 1009
    await place.hub.left.reach(1)


async def test_an_expired_token_closes_with_4401(place: Place) -> None:
    async with place.client(replace(principal(ACME), expires_at=time.time() + 0.05)) as client:
        assert await closed(client) == (4401, "token expired")
    assert len(place.hub) == 0


async def test_a_revoked_token_closes_with_4401(place: Place) -> None:
    ada = principal(ACME)
    async with place.client(ada) as client, place.client(principal(ACME)) as other:
        assert place.hub.revoke(user_id=ada.user_id) == 1
        assert await closed(client) == (4401, "token revoked")
        place.hub.send_conditional(lambda _: True, Message("CUSTOM", 1))
        assert json.loads(await other.recv())["payload"] == 1


async def test_a_user_who_is_disabled_is_thrown_out_and_cannot_come_back(place: Place) -> None:
    ada = principal(ACME)
    token = place.token_for(ada)
    async with connect(place.url(token), proxy=None) as client:
        await place.hub.joined.reach(1)
        place.tokens[token] = Unauthenticated("user disabled")
        place.hub.invalidate(ada.user_id)
        assert await closed(client) == (4401, "token revoked")
    with pytest.raises(InvalidStatus):
        await connect(place.url(token), proxy=None)


async def test_a_change_between_the_check_and_the_connection_is_noticed(place: Place) -> None:
    ada = principal(ACME)

    async def disabled_meanwhile() -> Principal:
        place.tokens[token] = Unauthenticated("user disabled")
        place.hub.invalidate(ada.user_id)
        assert place.hub._rechecking is not None
        await place.hub._rechecking
        return ada

    token = place.token_for(disabled_meanwhile)
    async with connect(place.url(token), proxy=None) as client:
        assert await closed(client) == (4401, "token revoked")


async def test_a_stopping_hub_says_goodbye(place: Place) -> None:
    async with place.client(principal(ACME)) as client:
        await place.hub.stop()
        assert await closed(client) == (1001, "server stops")


async def test_a_client_that_vanishes_is_forgotten(place: Place) -> None:
    async with place.client(principal(ACME)) as client:
        client.transport.abort()
        await place.hub.left.reach(1)
    assert len(place.hub) == 0


class DeadClient:
    """Opens a WebSocket and then reads nothing, with a small receive buffer."""

    def __init__(self, place: Place, who: Principal) -> None:
        self.path = f"/api/ws?token={place.token_for(who)}"
        self.address = place.address
        self.socket = socket.socket()

    async def __aenter__(self) -> DeadClient:
        loop = asyncio.get_running_loop()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        host, port = self.address.split(":")
        await loop.sock_connect(self.socket, (host, int(port)))
        lines = [
            f"GET {self.path} HTTP/1.1",
            f"Host: {self.address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ]
        await loop.sock_sendall(self.socket, "\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(self.socket, 1)
        assert head.startswith(b"HTTP/1.1 101 ")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def say(self, text: bytes) -> None:
        # A client's frame is masked; a mask of zeros leaves the text as it is.
        frame = struct.pack("!BBI", 0x81, 0x80 | len(text), 0) + text
        await asyncio.get_running_loop().sock_sendall(self.socket, frame)

    async def read_until(self, ending: bytes) -> None:
        """Read what the server sent until it ends with `ending`."""
        tail = b""
        async with asyncio.timeout(PATIENCE):
            while not tail.endswith(ending):
                data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
                assert data, f"the connection ended with {tail!r}"
                tail = (tail + data)[-200:]


async def flood(place: Place, dead: Principal, check: Callable[[int], Awaitable[None]]) -> int:
    """Send to all until the dead client is closed; `check` sees the number of messages after each batch."""
    sent = 0
    while dead.user_id in place.hub.connected_users():
        for _ in range(50):
            place.hub.send_conditional(lambda _: True, Message("CUSTOM", [sent, "x" * 10_000]))
            sent += 1
        await check(sent)
        assert sent < 20_000, "a client that reads nothing was never closed"
    return sent


async def test_a_dead_client_is_closed_with_1013_and_holds_up_nobody(place: Place) -> None:
    dead, alive = principal(ACME), [principal(ACME) for _ in range(3)]
    received: list[list[int]] = [[] for _ in alive]
    async with DeadClient(place, dead) as stuck:
        await place.hub.joined.reach(1)
        async with place.client(alive[0]) as one, place.client(alive[1]) as two, place.client(alive[2]) as three:

            async def all_received(sent: int) -> None:
                async with asyncio.timeout(PATIENCE):
                    for client, numbers in zip((one, two, three), received, strict=True):
                        while len(numbers) < sent:
                            numbers.append(json.loads(await client.recv())["payload"][0])

            sent = await flood(place, dead, all_received)
            assert received == [list(range(sent))] * 3
            assert place.hub.connected_users() == {who.user_id for who in alive}
            reason = b"too slow"
            await stuck.read_until(struct.pack("!BBH", 0x88, 2 + len(reason), 1013) + reason)


async def test_a_dead_client_that_never_reads_again_is_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(queues, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(WatchedProtocol, "close_timeout", 0.05, raising=False)
    dead = principal(ACME)

    async def nothing(sent: int) -> None:
        await asyncio.sleep(0)

    async with DeadClient(place, dead):
        await place.hub.joined.reach(1)
        await flood(place, dead, nothing)
        await place.lost.reach(1)
    assert place.lost.items[0].transport.is_closing()


async def test_a_server_can_stop_while_a_client_reads_nothing_and_its_hook_hangs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "CLOSE_SECONDS", 0.05)
    dead, heard, gate = principal(ACME), Arrivals[str](), asyncio.Event()

    async def hangs(connection: Connection, text: str) -> None:
        heard(text)
        await gate.wait()

    place.hub.on_message(hangs)
    async with DeadClient(place, dead) as stuck:
        await place.hub.joined.reach(1)
        await stuck.say(b"hello")
        await heard.reach(1)
        for _ in range(900):
            place.hub.send_to_user(dead.user_id, Message("CUSTOM", "x" * 4_000))
        (connection,) = place.server.server_state.connections
        connection.shutdown()
        await place.lost.reach(1)
        gate.set()
