"""The log of committed changes."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, Integer, SmallInteger, String, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm import cause
from metacore.orm.base import JSON_DOCUMENT, Base


class Event(Base):
    """One event, written in the transaction of the change that it tells.

    `sequence_num` (gapless per organization) and `position` (the order of delivery over all) are null until the relay
    numbers the committed row. `event_type` is `<addon>.<model>.<created|updated|deleted>` for canonical ones.
    `depth` is how many runs of subscriptions led to it (`metacore.orm.cause`).
    """

    __tablename__ = "metacore_events"
    __table_args__ = (
        UniqueConstraint("organization_id", "sequence_num"),
        UniqueConstraint("position"),
        Index("ix_metacore_events_unnumbered", "id", postgresql_where="position IS NULL"),
    )

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), Identity(always=False), primary_key=True
    )
    organization_id: Mapped[uuid.UUID]
    sequence_num: Mapped[int | None] = mapped_column(BigInteger)
    position: Mapped[int | None] = mapped_column(BigInteger)
    addon_key: Mapped[str] = mapped_column(String(48))
    event_type: Mapped[str] = mapped_column(String(255))
    tags: Mapped[list[Any]] = mapped_column(JSON_DOCUMENT, default=list, server_default="[]")
    data: Mapped[dict[str, Any]] = mapped_column(JSON_DOCUMENT)
    actor_id: Mapped[uuid.UUID | None]
    depth: Mapped[int] = mapped_column(SmallInteger, default=cause.depth, server_default="0")
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())


class EventCounter(Base):
    """The last number given to an organization's events; the relay alone raises it."""

    __tablename__ = "metacore_event_counters"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
