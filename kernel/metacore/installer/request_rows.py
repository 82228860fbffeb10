"""How rows of requests are written, and what of a row can be told as JSON."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.channels import REQUESTS
from metacore.db.database import Database
from metacore.orm.tables import AddonRequest


@contextlib.asynccontextmanager
async def transaction(owner: Database) -> AsyncIterator[AsyncConnection]:
    """As the owner, in every organization; alone from its begin on where the database knows no locks of rows."""
    async with owner.transaction(None) as connection:
        if owner.dialect == "sqlite":
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


async def notify(connection: AsyncConnection, request_id: uuid.UUID) -> None:
    """Wake workers, and who waits, when the transaction is committed."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_notify(REQUESTS, str(request_id))))


async def put_off(owner: Database, request_id: uuid.UUID, age: datetime.timedelta) -> None:
    """Let a claim look as old as `age`, as if its worker had died then: when it is too old, somebody takes it up."""
    async with transaction(owner) as connection:
        now = (
            await connection.execute(select(func.current_timestamp(type_=AddonRequest.claimed_at.type)))
        ).scalar_one()
        await connection.execute(update(AddonRequest).where(AddonRequest.id == request_id).values(claimed_at=now - age))


def plain(value: Any) -> Any:
    """Ids as text, times as UTC with Z."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    return value
