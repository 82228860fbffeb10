"""What the tests of auth and permissions share: a quick configuration, a clock that stands still, a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
from fastapi import APIRouter, FastAPI

from metacore.auth.config import AuthConfig

SECRET = "a secret of the tests of 32 bytes at least"
OLD_SECRET = "the secret of last month that was rotated away"
START = 1_800_000_000.0

CONFIG = AuthConfig(jwt_secrets=(SECRET,), hash_memory_kib=8, hash_time_cost=1)
"""One pass over 8 KiB: the flow is the same, the tests are quick."""


def config(**changes: Any) -> AuthConfig:
    return replace(CONFIG, **changes)


class Clock:
    """Unix seconds that move only when told to."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@asynccontextmanager
async def serving(*routers: APIRouter) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    for router in routers:
        app.include_router(router, prefix="/api")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test/api") as client:
        yield client


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}
