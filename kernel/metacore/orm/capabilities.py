"""What addons did without being granted it, and the mode that somebody asked for."""

from __future__ import annotations

import datetime
import uuid

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import Base


class ViolationRow(Base):
    """Equal violations of one hour, counted. `organization_id` is the nil UUID where no tenant is behind it.

    `forbidden` ones were refused in either mode, because no grant allows them; of the others `mode` says what became:
    shadow let them pass, enforce refused them. `caller` is who set the operation off.
    """

    __tablename__ = "metacore_violations"
    __table_args__ = (Index("ix_metacore_violations_addon_key_hour", "addon_key", "hour"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    hour: Mapped[datetime.datetime] = mapped_column(primary_key=True)
    addon_key: Mapped[str] = mapped_column(String(48), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    target: Mapped[str] = mapped_column(String(255), primary_key=True)
    caller: Mapped[str] = mapped_column(String(128), primary_key=True)
    mode: Mapped[str] = mapped_column(String(16), primary_key=True)
    forbidden: Mapped[bool] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    first_at: Mapped[datetime.datetime]
    last_at: Mapped[datetime.datetime]


class ModeRow(Base):
    """One row (id 1): the global mode that was asked for by API, '' when nobody asked. `changed_by` is an e-mail."""

    __tablename__ = "metacore_mode"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    mode: Mapped[str] = mapped_column(String(16), server_default="")
    changed_by: Mapped[str] = mapped_column(String(320), server_default="")
    changed_at: Mapped[datetime.datetime | None]
