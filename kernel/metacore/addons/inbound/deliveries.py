"""Deliveries by their ids: one that was handled is answered from memory, one that is under way is not begun again."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from metacore.db.database import Database
from metacore.errors import Conflict
from metacore.orm.connectors import HookDelivery

KEPT: Final = datetime.timedelta(days=7)
"""How long a delivery is known; senders try again for three days at most, and signatures are too old after minutes."""

LEASE: Final = datetime.timedelta(minutes=2)
"""After this a delivery that is still under way was lost with its kernel, and may be begun again."""

MAX_KEPT_REPLY: Final = 8 * 1024

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    organization_id: uuid.UUID
    addon_key: str
    webhook_key: str
    delivery_id: str


@dataclass(frozen=True, slots=True)
class Begun:
    """`done` tells that it was handled before; `reply` is what was answered then."""

    id: uuid.UUID
    done: bool = False
    reply: Any = None


class Deliveries:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, key: DeliveryKey) -> Begun:
        """Take the delivery. One that failed, or was lost, is begun again under the same id.

        Raises:
            Conflict: it is under way.
        """
        now = datetime.datetime.now(datetime.UTC)
        identifier = uuid.uuid4()
        try:
            async with self._database.transaction(key.organization_id) as connection:
                await connection.execute(
                    delete(HookDelivery).where(
                        HookDelivery.organization_id == key.organization_id, HookDelivery.started_at < now - KEPT
                    )
                )
                await connection.execute(
                    insert(HookDelivery).values(
                        id=identifier,
                        organization_id=key.organization_id,
                        addon_key=key.addon_key,
                        webhook_key=key.webhook_key,
                        delivery_id=key.delivery_id,
                        started_at=now,
                    )
                )
        except IntegrityError:
            return await self._again(key, now)
        return Begun(identifier)

    async def end(self, key: DeliveryKey, begun: Begun, status: str, reply: Mapping[str, Any] | None = None) -> None:
        kept = reply if reply is not None and len(orjson.dumps(reply)) <= MAX_KEPT_REPLY else None
        values = {"status": status, "reply": kept, "finished_at": datetime.datetime.now(datetime.UTC)}
        async with self._database.transaction(key.organization_id) as connection:
            await connection.execute(update(HookDelivery).where(HookDelivery.id == begun.id).values(**values))

    async def _again(self, key: DeliveryKey, now: datetime.datetime) -> Begun:
        place = (
            HookDelivery.organization_id == key.organization_id,
            HookDelivery.addon_key == key.addon_key,
            HookDelivery.webhook_key == key.webhook_key,
            HookDelivery.delivery_id == key.delivery_id,
        )
        free = or_(
            HookDelivery.status == FAILED, (HookDelivery.status == RUNNING) & (HookDelivery.started_at < now - LEASE)
        )
        async with self._database.transaction(key.organization_id) as connection:
            taken = await connection.execute(
                update(HookDelivery)
                .where(*place, free)
                .values(status=RUNNING, started_at=now)
                .returning(HookDelivery.id)
            )
            identifier = taken.scalar_one_or_none()
            if identifier is not None:
                return Begun(identifier)
            row = (
                await connection.execute(select(HookDelivery.id, HookDelivery.status, HookDelivery.reply).where(*place))
            ).one_or_none()
        if row is None or row.status != DONE:
            raise Conflict("this delivery is being handled; try again later", code="delivery_running")
        return Begun(row.id, done=True, reply=row.reply)
