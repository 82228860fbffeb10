"""Numbers given to rows."""

from __future__ import annotations

import uuid

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import Base


class SequenceCounter(Base):
    """The last number of one declared sequence in one organization. `scope` is '' or the value that it counts for."""

    __tablename__ = "metacore_sequences"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    addon_key: Mapped[str] = mapped_column(String(48), primary_key=True)
    model_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    scope: Mapped[str] = mapped_column(String(255), primary_key=True, server_default="")
    value: Mapped[int] = mapped_column(BigInteger)
