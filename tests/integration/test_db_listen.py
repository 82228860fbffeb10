"""The listener hears what is sent, and comes back by itself."""

from __future__ import annotations

import asyncio

import pytest

from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import Misconfigured

PATIENCE = 20


async def notify(database: Database, channel: str, payload: str) -> None:
    await database.postgres.execute("SELECT pg_notify($1, $2)", channel, payload)


async def test_each_channel_reaches_its_own_subscribers(kernel_db: Database) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    listener = Listener(kernel_db.direct_url)
    listener.subscribe(channels.AUTH, lambda payload: heard.put_nowait(("auth", payload)))
    listener.subscribe(channels.AUTH, lambda payload: heard.put_nowait(("auth too", payload)))
    listener.subscribe(channels.REGISTRY, lambda payload: heard.put_nowait(("registry", payload)))
    await listener.start()
    try:
        await notify(kernel_db, channels.EVENTS, "nobody listens to this")
        await notify(kernel_db, channels.AUTH, "u1")
        await notify(kernel_db, channels.REGISTRY, "7")
        got = [await asyncio.wait_for(heard.get(), PATIENCE) for _ in range(3)]
    finally:
        await listener.stop()
    assert got == [("auth", "u1"), ("auth too", "u1"), ("registry", "7")]


async def test_a_channel_can_be_added_while_running(kernel_db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Listener(kernel_db.direct_url)
    await listener.start()
    try:
        listener.subscribe(channels.EVENTS, heard.put_nowait)
        async with asyncio.timeout(PATIENCE):
            while heard.empty():  # LISTEN takes a moment; until then notifications are for nobody.
                await notify(kernel_db, channels.EVENTS, "12")
                await asyncio.sleep(0)
        assert heard.get_nowait() == "12"
    finally:
        await listener.stop()


async def test_a_terminated_backend_is_replaced_and_told(kernel_db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    reconnected = asyncio.Event()
    listener = Listener(kernel_db.direct_url)
    listener.subscribe(channels.PERMISSIONS, heard.put_nowait)
    listener.on_reconnect(reconnected.set)
    await listener.start()
    try:
        ended = await kernel_db.postgres.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'metacore-listen'"
            " AND datname = current_database()"
        )
        assert ended == 1
        await asyncio.wait_for(reconnected.wait(), PATIENCE)
        await notify(kernel_db, channels.PERMISSIONS, "after")
        assert await asyncio.wait_for(heard.get(), PATIENCE) == "after"
        assert listener.connected
    finally:
        await listener.stop()
    assert not listener.connected


async def test_a_subscriber_that_fails_does_not_silence_the_others(
    kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Listener(kernel_db.direct_url)

    def fail(_payload: str) -> None:
        raise RuntimeError("broken subscriber")

    listener.subscribe(channels.AUTH, fail)
    listener.subscribe(channels.AUTH, heard.put_nowait)
    await listener.start()
    try:
        await notify(kernel_db, channels.AUTH, "x")
        assert await asyncio.wait_for(heard.get(), PATIENCE) == "x"
    finally:
        await listener.stop()
    assert "listener.subscriber_failed" in caplog.text


async def test_a_database_that_cannot_be_reached_is_said_at_start_without_the_password() -> None:
    listener = Listener("postgresql://who:hunter2@127.0.0.1:1/none")
    with pytest.raises(Misconfigured) as caught:
        await listener.start()
    assert "hunter2" not in str(caught.value)
    await listener.stop()
