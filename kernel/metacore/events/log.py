"""The log of committed events (table `metacore_events`): numbering what is new, and reading on from a position.

Writers insert events without numbers, inside the transaction of the change; numbers are given after commit, so that no
event ever appears below a position that somebody has read already.
"""

from __future__ import annotations

import datetime
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import asyncpg
import orjson
from sqlalchemy import RowMapping, Table, bindparam, func, select
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.events.bus import BusEvent
from metacore.orm.events import Event, EventCounter

EVENTS: Final = cast(Table, Event.__table__)
COUNTERS: Final = cast(Table, EventCounter.__table__)

NOBODY: Final = uuid.UUID(int=0)
"""The counter of this organization is the last position given to any event."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is about to be written. `actor_id` is None for what no user asked for."""

    organization_id: uuid.UUID
    addon_key: str
    name: str
    data: Mapping[str, Any]
    actor_id: uuid.UUID | None = None
    tags: tuple[str, ...] = ()


async def append(connection: AsyncConnection, event: NewEvent) -> None:
    """Write an event within the transaction of `connection`, which has its organization set. The relay numbers it
    once that is committed; whoever commits wakes it."""
    await connection.execute(
        EVENTS.insert().values(
            organization_id=event.organization_id,
            addon_key=event.addon_key,
            event_type=event.name,
            tags=list(event.tags),
            data=dict(event.data),
            actor_id=event.actor_id,
        )
    )


class EventReader(Protocol):
    async def after(self, position: int, batch: int) -> list[BusEvent]:
        """Up to `batch` numbered events of all organizations behind `position`, in order."""
        ...

    async def last_position(self) -> int:
        """The position of the newest numbered event, 0 when there is none."""
        ...


class PostgresReader:
    """Reads through the definer function, the only way for the kernel role to see every organization's events."""

    AFTER: Final = "SELECT * FROM metacore_events_after($1, $2)"

    def __init__(self, db: Database) -> None:
        self._db = db

    async def after(self, position: int, batch: int) -> list[BusEvent]:
        return [_from_row(row) for row in await self._db.postgres.fetch(self.AFTER, position, batch)]

    async def last_position(self) -> int:
        # The kernel role may not ask for the maximum. "Is there an event behind p" is yes below it and no from it on,
        # so it is found by doubling and halving, in some forty quick questions.
        if not await self.after(0, 1):
            return 0
        low, high = 0, 1
        while await self.after(high, 1):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await self.after(middle, 1) else (low, middle)
        return high


class SqliteLog:
    """Reading and numbering on SQLite."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def number(self, batch: int) -> int:
        """Number up to `batch` committed events; tells how many there were."""
        unnumbered = (
            select(EVENTS.c.id, EVENTS.c.organization_id)
            .where(EVENTS.c.position.is_(None))
            .order_by(EVENTS.c.id)
            .limit(batch)
        )
        async with self._db.transaction(None) as connection:
            # A write comes first: with the write lock in hand, what is read next cannot change any more.
            await connection.execute(_raise_counter(NOBODY, 0))
            rows = (await connection.execute(unnumbered)).all()
            if not rows:
                return 0
            counts = Counter(row.organization_id for row in rows)
            counts[NOBODY] = len(rows)
            given = {
                owner: int(await connection.scalar(_raise_counter(owner, count)) or 0) - count
                for owner, count in counts.items()
            }
            numbers = []
            for row in rows:
                given[NOBODY] += 1
                given[row.organization_id] += 1
                numbers.append({"row": row.id, "place": given[NOBODY], "own": given[row.organization_id]})
            await connection.execute(
                EVENTS.update()
                .where(EVENTS.c.id == bindparam("row"))
                .values(position=bindparam("place"), sequence_num=bindparam("own")),
                numbers,
            )
            return len(rows)

    async def after(self, position: int, batch: int) -> list[BusEvent]:
        statement = select(EVENTS).where(EVENTS.c.position > position).order_by(EVENTS.c.position).limit(batch)
        async with self._db.transaction(None) as connection:
            return [_from_row(row) for row in (await connection.execute(statement)).mappings()]

    async def last_position(self) -> int:
        async with self._db.transaction(None) as connection:
            return int(await connection.scalar(select(func.max(EVENTS.c.position))) or 0)


def _raise_counter(organization_id: uuid.UUID, count: int) -> Any:
    statement: Insert = insert(COUNTERS).values(organization_id=organization_id, value=count)
    return statement.on_conflict_do_update(
        index_elements=[COUNTERS.c.organization_id], set_={"value": COUNTERS.c.value + statement.excluded.value}
    ).returning(COUNTERS.c.value)


def _from_row(row: Mapping[str, Any] | RowMapping | asyncpg.Record) -> BusEvent:
    created_at: datetime.datetime = row["created_at"]
    return BusEvent(
        name=row["event_type"],
        addon_key=row["addon_key"],
        organization_id=row["organization_id"],
        payload=_document(row["data"]),
        sequence_num=row["sequence_num"],
        position=row["position"],
        actor_id=row["actor_id"],
        created_at=created_at.timestamp(),
        tags=tuple(_document(row["tags"])),
    )


def _document(value: Any) -> Any:
    """The pool hands JSON on as bytes, SQLAlchemy as values."""
    return orjson.loads(value) if isinstance(value, bytes | str) else value
