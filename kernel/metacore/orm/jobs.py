"""Work of addons that nobody waits for."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, String, Text, UniqueConstraint, false, func
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import JSON_DOCUMENT, Base


class Job(Base):
    """One run to come, or one that comes again and again.

    `kind` is one of `metacore.installer.job_rows`; `handler` is `{kind, function, url}`. Those that come once go
    from waiting (for `run_at`) over pending and running to done, or to failed, where they stay to be seen. A schedule
    has `every` and goes back to waiting; a subscription goes back to idle. Both are paused where the addon is disabled.

    `progress` is the Unix second of a schedule's slot, and the last `sequence_num` that a subscription is through with;
    `delivered` counts the handlers that the event behind it has had already; `wanted` tells that one came while it ran.
    Of the jobs in one `lane` of an addon and organization, the next begins when the one before has ended. `dedup` names
    what must be there once.
    """

    __tablename__ = "metacore_jobs"
    __table_args__ = (
        UniqueConstraint("id"),
        UniqueConstraint("organization_id", "addon_key", "dedup"),
        Index(
            "ix_metacore_jobs_pending",
            "addon_key",
            "organization_id",
            "run_at",
            "seq",
            postgresql_where="status = 'pending'",
        ),
        Index("ix_metacore_jobs_waiting", "run_at", postgresql_where="status = 'waiting'"),
        Index("ix_metacore_jobs_running", "leased_until", postgresql_where="status = 'running'"),
        Index("ix_metacore_jobs_lane", "organization_id", "addon_key", "lane", "seq", postgresql_where="lane <> ''"),
        Index(
            "ix_metacore_jobs_subscriptions", "addon_key", "organization_id", postgresql_where="kind = 'subscription'"
        ),
        Index("ix_metacore_jobs_lifecycle", "addon_key", postgresql_where="kind = 'lifecycle' AND status <> 'done'"),
        Index("ix_metacore_jobs_finished", "finished_at", postgresql_where="finished_at IS NOT NULL"),
        Index("ix_metacore_jobs_organization_id_seq", "organization_id", "seq"),
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), Identity(always=False), primary_key=True
    )
    id: Mapped[uuid.UUID] = mapped_column(default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"))
    addon_key: Mapped[str] = mapped_column(String(48))
    digest: Mapped[str] = mapped_column(String(64), server_default="")
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255))
    handler: Mapped[dict[str, Any]] = mapped_column(JSON_DOCUMENT, default=dict, server_default="{}")
    payload: Mapped[dict[str, Any]] = mapped_column(JSON_DOCUMENT, default=dict, server_default="{}")
    status: Mapped[str] = mapped_column(String(16), server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="8")
    run_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    every: Mapped[str] = mapped_column(String(200), server_default="")
    lane: Mapped[str] = mapped_column(String(64), server_default="")
    dedup: Mapped[str | None] = mapped_column(String(255))
    progress: Mapped[int] = mapped_column(BigInteger, server_default="0")
    delivered: Mapped[int] = mapped_column(server_default="0")
    wanted: Mapped[bool] = mapped_column(server_default=false())
    leased_by: Mapped[str] = mapped_column(String(128), server_default="")
    leased_until: Mapped[datetime.datetime | None]
    last_error: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    started_at: Mapped[datetime.datetime | None]
    finished_at: Mapped[datetime.datetime | None]
