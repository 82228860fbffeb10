"""Tenants' requests and housekeeping that hang make the operator count as dead; work that takes long does not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from sqlalchemy.exc import TimeoutError as PoolExhausted
from tests.factories import make_organization, principal
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.db.database import Database
from metacore.installer import request_worker as working
from metacore.installer import requests
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.settings import Settings
from metacore_operator import __main__ as operator
from metacore_operator.cluster.health import Beats, serving
from metacore_operator.cluster.runner import WORK_LATE_SECONDS
from metacore_operator.housekeeping import Housekeeping
from metacore_operator.metrics import OperatorMetrics


class Watch(Beats):
    """Beats whose time is set by hand, and that tell of each turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turned = asyncio.Event()
        super().__init__(lambda: self.now)

    def beat(self, loop: str) -> None:
        super().beat(loop)
        self.turned.set()

    async def turn(self) -> None:
        """Wait for a beat from now on."""
        self.turned.clear()
        async with asyncio.timeout(30):
            await self.turned.wait()


class Hanging(Installer):
    """Begins an installation and never ends it; `step` is what it calls when it gets on."""

    def __init__(self, owner: Database) -> None:
        super().__init__(owner)
        self.begun = asyncio.Event()

    async def install(self, *_args: Any, progress: Any = None, **_options: Any) -> Any:
        self.step = progress
        self.begun.set()
        await asyncio.Event().wait()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@asynccontextmanager
async def running(work: RequestWorker | Housekeeping) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(work.run(stop))
    try:
        yield
    finally:
        stop.set()
        task.cancel()
        await asyncio.wait({task})


async def alive(watch: Watch) -> tuple[int, str]:
    """What the liveness probe sees."""
    async with (
        serving(watch, OperatorMetrics(process=False), "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/healthz") as response,
    ):
        return response.status, (await response.text()).strip()


async def ask(kernel: Database, organization: uuid.UUID) -> None:
    content, signature = signed(make_bundle(tickets_manifest()))
    await requests.submit(kernel, principal(organization), "install", "tickets", bundle=content, signature=signature)


async def blocked(held: Any) -> None:
    """Until somebody waits for the table that `held` has locked."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'metacore_requests'::regclass)"
    async with asyncio.timeout(30):
        while not await held.fetchval(waiting):
            pass


async def test_an_idle_worker_comes_round(owner_db: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "POLL_SECONDS", 0.01)
    worker = operator.request_worker(Settings(), owner_db, Installer(owner_db), lambda: TRUSTED, None, watch)
    async with running(worker):
        for _ in range(3):
            watch.now += operator.REQUESTS_LATE_SECONDS
            await watch.turn()
            assert await alive(watch) == (200, "ok")


async def test_a_loop_that_hangs_makes_liveness_fail(owner_db: Database, watch: Watch) -> None:
    worker = operator.request_worker(Settings(), owner_db, Installer(owner_db), lambda: TRUSTED, None, watch)
    async with owner_db.postgres.acquire() as held, held.transaction():
        await held.execute("LOCK TABLE metacore_requests IN ACCESS EXCLUSIVE MODE")
        async with running(worker):
            await blocked(held)
            watch.now += operator.REQUESTS_LATE_SECONDS
            assert await alive(watch) == (200, "ok")
            watch.now += 1
            assert await alive(watch) == (503, "late: requests: 1021 s ago")


async def test_a_long_request_lives_while_it_is_renewed_and_hangs_after_two_hours_without_a_step(
    owner_db: Database, kernel_db: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "RENEW_SECONDS", 0.01)
    installer = Hanging(owner_db)
    await ask(kernel_db, await make_organization(owner_db))
    worker = operator.request_worker(Settings(), owner_db, installer, lambda: TRUSTED, None, watch)
    async with running(worker):
        await installer.begun.wait()
        for _ in range(3):
            # Nearly two hours go by between its steps.
            watch.now += WORK_LATE_SECONDS
            await watch.turn()
            assert await alive(watch) == (200, "ok")
            installer.step("a step")
        watch.now += WORK_LATE_SECONDS + 1
        await watch.turn()
        assert await alive(watch) == (503, "late: request install of tickets: 7201 s ago")


async def test_a_renewal_that_hangs_makes_liveness_fail(
    owner_db: Database, kernel_db: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "RENEW_SECONDS", 0.01)
    installer = Hanging(owner_db)
    await ask(kernel_db, await make_organization(owner_db))
    worker = operator.request_worker(Settings(), owner_db, installer, lambda: TRUSTED, None, watch)
    async with running(worker), owner_db.postgres.acquire() as held, held.transaction():
        await installer.begun.wait()
        await held.execute("LOCK TABLE metacore_requests IN ACCESS EXCLUSIVE MODE")
        await blocked(held)
        watch.now += operator.REQUESTS_LATE_SECONDS + 1
        assert await alive(watch) == (503, "late: requests: 1021 s ago")


async def test_connections_that_are_all_taken_end_nothing(
    owner_db: Database, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "POLL_SECONDS", 0.01)

    class Full(RequestWorker):
        async def tidy(self) -> None:
            raise PoolExhausted("QueuePool limit of size 5 overflow 10 reached")

    watch.expect("full", 10)
    async with running(Full(owner_db, Installer(owner_db), lambda: TRUSTED, None, on_turn=lambda: watch.beat("full"))):
        for _ in range(5):
            await watch.turn()
    assert await alive(watch) == (200, "ok")


async def test_housekeeping_that_hangs_makes_liveness_fail(owner_db: Database, watch: Watch) -> None:
    begun = asyncio.Event()

    class Stuck(Installer):
        async def sweep(self) -> int:
            begun.set()
            return await asyncio.Event().wait()

    keeping = Housekeeping(owner_db, Stuck(owner_db), busy=lambda work: watch.busy(work, WORK_LATE_SECONDS))
    async with running(keeping):
        await begun.wait()
        watch.now += WORK_LATE_SECONDS
        assert await alive(watch) == (200, "ok")
        watch.now += 1
        assert await alive(watch) == (503, "late: purging rehearsals: 7201 s ago")
    assert await alive(watch) == (200, "ok")
