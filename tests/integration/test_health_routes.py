"""Liveness, readiness and the scrape, as a kubelet and a Prometheus see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI

from metacore.api.health import Check, Readiness, build_health_router
from metacore.errors import Unavailable
from metacore.metrics import Metrics


@asynccontextmanager
async def client_for(checks: dict[str, Check], metrics: Metrics | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(build_health_router(checks, metrics))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        yield client


async def fine() -> None:
    return None


async def unreachable() -> None:
    raise Unavailable("database does not answer")


async def leaking() -> None:
    raise OSError("connect to kernel:hunter2@10.0.0.7 failed")


async def test_the_process_is_up_whatever_the_checks_say() -> None:
    async with client_for({"database": unreachable}) as client:
        reply = await client.get("/healthz")
    assert (reply.status_code, reply.json()) == (200, {"success": True, "data": {"status": "ok"}})


async def test_ready_when_every_check_passes() -> None:
    async with client_for({"database": fine, "registry": fine}) as client:
        reply = await client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["data"]["checks"] == {"database": "ok", "registry": "ok"}


async def test_not_ready_names_each_failing_check_and_its_reason() -> None:
    async with client_for({"database": unreachable, "migrations": fine, "heartbeat": unreachable}) as client:
        reply = await client.get("/readyz")
    assert reply.status_code == 503
    body = reply.json()
    assert body["message"] == "not ready: database, heartbeat"
    assert body["checks"]["database"] == "database does not answer"
    assert body["checks"]["migrations"] == "ok"


async def test_internals_of_a_failing_check_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    async with client_for({"database": leaking}) as client:
        reply = await client.get("/readyz")
    assert "hunter2" not in reply.text and "10.0.0.7" not in reply.text
    assert reply.json()["checks"] == {"database": "failed"}
    assert "health.check_failed" in caplog.text


async def test_a_check_that_hangs_fails() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    assert await Readiness({"database": hangs}, seconds=0.01).results() == {"database": "no answer within 0.01 s"}


async def test_callers_at_the_same_time_share_one_round_and_later_ones_get_a_new_one() -> None:
    rounds = 0
    gate = asyncio.Event()

    async def counted() -> None:
        nonlocal rounds
        rounds += 1
        await gate.wait()

    readiness = Readiness({"database": counted})
    together = [asyncio.create_task(readiness.results()) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*together) == [{"database": "ok"}] * 5
    assert rounds == 1
    await readiness.results()
    assert rounds == 2


async def test_a_caller_that_goes_away_does_not_cancel_the_others() -> None:
    gate = asyncio.Event()
    readiness = Readiness({"database": gate.wait})  # type: ignore[dict-item]
    gone, stays = asyncio.create_task(readiness.results()), asyncio.create_task(readiness.results())
    await asyncio.sleep(0)
    gone.cancel()
    gate.set()
    assert await stays == {"database": "ok"}
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_metrics_are_scraped_in_the_text_format() -> None:
    metrics = Metrics(process=False)
    metrics.ws_connections.set(3)
    async with client_for({}, metrics) as client:
        reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert "metacore_ws_connections 3.0" in reply.text


async def test_without_metrics_the_route_says_so() -> None:
    async with client_for({}) as client:
        assert (await client.get("/metrics")).status_code == 501
