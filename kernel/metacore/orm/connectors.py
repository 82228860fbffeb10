"""What ties an installation to services outside: credentials of connectors, deliveries of webhooks that came in.

Both refer to the installation by organization and addon, so a row cannot belong to another tenant's installation, and
goes away with its own.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, String, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import Base, Identified, Timestamped

_INSTALLATION = ("metacore_installations.organization_id", "metacore_installations.addon_key")


class ConnectorCredentials(Identified, Timestamped, Base):
    """Credentials of one connector in one organization. `sealed` is the JSON object of all values under the master key.

    `tested_at` and `test_error` tell of the last test since they were set; '' when it passed.
    """

    __tablename__ = "metacore_connectors"
    __table_args__ = (
        UniqueConstraint("organization_id", "addon_key", "connector_key"),
        ForeignKeyConstraint(("organization_id", "addon_key"), _INSTALLATION, ondelete="CASCADE"),
    )

    organization_id: Mapped[uuid.UUID]
    addon_key: Mapped[str] = mapped_column(String(48))
    connector_key: Mapped[str] = mapped_column(String(128))
    sealed: Mapped[str] = mapped_column(Text)
    updated_by: Mapped[uuid.UUID | None]
    tested_at: Mapped[datetime.datetime | None]
    test_error: Mapped[str] = mapped_column(Text, server_default="")


class HookDelivery(Identified, Base):
    """One delivery of an inbound webhook, by the sender's id. `status` is running, done or failed; `reply` what the
    sender was answered, for the same delivery sent again."""

    __tablename__ = "metacore_hook_deliveries"
    __table_args__ = (
        UniqueConstraint(
            "organization_id", "addon_key", "webhook_key", "delivery_id", name="uq_metacore_hook_deliveries_delivery"
        ),
        ForeignKeyConstraint(("organization_id", "addon_key"), _INSTALLATION, ondelete="CASCADE"),
        Index("ix_metacore_hook_deliveries_started_at", "organization_id", "started_at"),
    )

    organization_id: Mapped[uuid.UUID]
    addon_key: Mapped[str] = mapped_column(String(48))
    webhook_key: Mapped[str] = mapped_column(String(128))
    delivery_id: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(16), server_default="running")
    reply: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    finished_at: Mapped[datetime.datetime | None]
