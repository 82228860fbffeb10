"""Two kernels on one database: who is connected to either gets what is sent in the other."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.factories import principal

from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.ids import UserId
from metacore.ws.fanout import MAX_BYTES, MAX_UNFINISHED, reach_other_kernels
from metacore.ws.hub import Hub
from metacore.ws.messages import Message

ACME = uuid.uuid4()


class Client:
    def __init__(self) -> None:
        self.messages: Arrivals[dict[str, Any]] = Arrivals()

    def push(self, message: Message) -> bool:
        self.messages(json.loads(message.text))
        return True

    def end(self, code: int, reason: str) -> None:
        """Nothing to close."""


@dataclass
class Kernel:
    hub: Hub
    database: Database

    def join(self, user: UserId) -> Client:
        client = Client()
        self.hub.connect(principal(ACME, user), client)
        return client

    async def notify(self, payload: str) -> None:
        await self.database.postgres.execute("SELECT pg_notify($1, $2)", channels.MESSAGES, payload)


@pytest.fixture
async def kernels(database_urls: DatabaseUrls) -> AsyncIterator[tuple[Kernel, Kernel]]:
    async with AsyncExitStack() as stack:
        made: list[Kernel] = []
        for _ in range(2):
            database = await Database.connect(database_urls.kernel, pool_size=2)
            stack.push_async_callback(database.close)
            listener, hub = Listener(database.direct_url), Hub()
            reach_other_kernels(hub, database, listener)
            await listener.start()
            stack.push_async_callback(listener.stop)
            stack.push_async_callback(hub.stop)
            made.append(Kernel(hub, database))
        yield made[0], made[1]


def user() -> UserId:
    return UserId(uuid.uuid4())


async def test_a_message_reaches_its_users_in_both_kernels_once_and_in_order(kernels: tuple[Kernel, Kernel]) -> None:
    here, there = kernels
    ada, bob, eve = user(), user(), user()
    near, far, other, stranger = here.join(ada), there.join(ada), there.join(bob), there.join(eve)
    heard: list[frozenset[UserId]] = []
    here.hub.on_notification(lambda users, _message: heard.append(users))
    there.hub.on_notification(lambda users, _message: heard.append(users))
    assert here.hub.send_to_users([ada, bob], Message("NOTIFICATION", {"title": "é"})) == 1
    for number in range(600):
        here.hub.send_to_user(ada, Message("CUSTOM", number))
    here.hub.send_to_user(ada, Message("CUSTOM", "same"))
    here.hub.send_to_user(ada, Message("CUSTOM", "same"))
    wanted = [{"type": "NOTIFICATION", "payload": {"title": "é"}}]
    wanted += [{"type": "CUSTOM", "payload": payload} for payload in (*range(600), "same", "same")]
    await far.messages.reach(len(wanted))
    assert far.messages.items == near.messages.items == wanted
    assert other.messages.items == wanted[:1]
    assert stranger.messages.items == []
    # Who pushes on notifications does so once, where it was sent.
    assert heard == [frozenset({ada, bob})]


async def test_large_messages_travel_in_parts_and_too_large_ones_stay_here(kernels: tuple[Kernel, Kernel]) -> None:
    here, there = kernels
    ada = user()
    near, far = here.join(ada), there.join(ada)
    for payload in ("a" * 5_400, "ü" * 100_000, "b" * MAX_BYTES, "end"):
        assert here.hub.send_to_user(ada, Message("CUSTOM", payload)) == 1
    await far.messages.reach(3)
    assert [len(message["payload"]) for message in far.messages.items] == [5_400, 100_000, 3]
    assert len(near.messages.items) == 4


async def test_what_is_no_message_harms_nobody(kernels: tuple[Kernel, Kernel]) -> None:
    here, there = kernels
    ada = user()
    far = there.join(ada)
    for payload in (
        "",
        "x",
        "a b c d e",
        "a 1 0 1 !!!",
        "a 1 0 1 e30=",
        "a 1 0 1 W10=",
        "a 2 5 1 e30=",
        "a 3 -1 1 e30=",
    ):
        await here.notify(payload)
    for number in range(MAX_UNFINISHED * 2):
        await here.notify(f"lost {number} 0 2 e30=")
    here.hub.send_to_user(ada, Message("CUSTOM", 1))
    await far.messages.reach(1)
    assert far.messages.items == [{"type": "CUSTOM", "payload": 1}]


async def test_without_its_database_a_hub_serves_its_own_clients(kernels: tuple[Kernel, Kernel]) -> None:
    here, _ = kernels
    ada = user()
    near = here.join(ada)
    await here.database.close()
    assert here.hub.send_to_user(ada, Message("CUSTOM", 1)) == 1
    assert here.hub.elsewhere is not None
    await asyncio.sleep(0)  # Its turn to find out.
    assert here.hub.send_to_user(ada, Message("CUSTOM", 2)) == 1
    assert len(near.messages.items) == 2
    await here.hub.stop()
