"""Whole applications under test: an App mounted on FastAPI, started, with a client that speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from metacore import App, AppConfig, Model

SECRET = "a secret of the tests of 32 bytes at least"
PASSWORD = "correct horse battery"


class Gadget(Model):
    """A model of a host."""

    __tablename__ = "gadgets"

    name: Mapped[str] = mapped_column(String(40))
    price: Mapped[Decimal] = mapped_column(default=Decimal(0))
    pin: Mapped[str | None] = mapped_column(String(20), info={"widget": "password"})


def new_app(database: Any, **changes: Any) -> App:
    """An App with one model in code, not yet started."""
    config: dict[str, Any] = {"database": database, "jwt_secret": SECRET, "heartbeat_interval": 0.2, **changes}
    return App(AppConfig(**config)).register_model("gadgets", lambda: Gadget)


@asynccontextmanager
async def started(web: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the application's lifespan and give a client; relative URLs start at the root."""
    async with web.router.lifespan_context(web):
        transport = httpx2.ASGITransport(app=web, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def register(client: httpx2.AsyncClient, email: str, prefix: str = "/api") -> dict[str, str]:
    """A new organization with its owner; returns the headers of that caller."""
    reply = await client.post(
        f"{prefix}/auth/register",
        json={"name": email.split("@")[0], "email": email, "password": PASSWORD, "organization_name": f"{email} Ltd"},
    )
    assert reply.status_code == 201, reply.text
    return {"Authorization": f"Bearer {reply.json()['data']['token']}"}
