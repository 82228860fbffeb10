"""Bundles, installed addons, their journal, and the kernels that serve them.

Only the owner role writes most of these; the kernel's role writes heartbeats, requests, and the settings of an
installation. `metacore.db.grants` holds the list.
"""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, func, true
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import Base, Identified, Timestamped


class Bundle(Base):
    """The bytes of one signed archive. `digest` is the SHA-256 in hex, `signature` the wire object of contract 9."""

    __tablename__ = "metacore_bundles"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    addon_key: Mapped[str] = mapped_column(String(48), index=True)
    version: Mapped[str] = mapped_column(String(64))
    content: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())


class Registry(Base):
    """One row (id 1). Its revision rises with every committed change of what is installed, so changes have an order."""

    __tablename__ = "metacore_registry"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Epoch(Base):
    """A counter per kind of cached fact (`auth`, `permissions`): a kernel that sees it rise drops that cache."""

    __tablename__ = "metacore_epochs"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Addon(Timestamped, Base):
    """What this database runs of one addon key.

    `owner_uid` is the uid of the Addon resource that claimed the key; '' when an API request or a host did.
    `fenced_reason` is '' while the signature is trusted. `grants` are the accepted capabilities
    (`[{kind, target, reason}]`). `revision` is the registry revision of the last change to this row.
    `attempt` numbers the installation under way; a step checks it, so an older attempt can change nothing.
    """

    __tablename__ = "metacore_addons"

    key: Mapped[str] = mapped_column(String(48), primary_key=True)
    owner_uid: Mapped[str] = mapped_column(String(64), server_default="")
    digest: Mapped[str | None] = mapped_column(String(64), ForeignKey("metacore_bundles.digest"))
    version: Mapped[str] = mapped_column(String(64), server_default="")
    signer: Mapped[str] = mapped_column(String(255), server_default="")
    source: Mapped[str] = mapped_column(String(16), server_default="bundle")
    mode: Mapped[str] = mapped_column(String(16), server_default="inherit")
    grants: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    fenced_reason: Mapped[str] = mapped_column(String(64), server_default="")
    enabled: Mapped[bool] = mapped_column(server_default=true())
    attempt: Mapped[int] = mapped_column(server_default="0")
    schema_revision: Mapped[int] = mapped_column(server_default="0")
    revision: Mapped[int] = mapped_column(BigInteger, server_default="0")


class AddonModel(Base):
    """Who serves a model key and a table name: both are unique over addons."""

    __tablename__ = "metacore_addon_models"
    __table_args__ = (UniqueConstraint("table_name"),)

    model_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    table_name: Mapped[str] = mapped_column(String(64))
    addon_key: Mapped[str] = mapped_column(ForeignKey("metacore_addons.key", ondelete="CASCADE"), index=True)


class AddonSchema(Base):
    """Every schema made for an addon. `organization_id` is null for a shared one."""

    __tablename__ = "metacore_schemas"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    addon_key: Mapped[str] = mapped_column(String(48), index=True)
    organization_id: Mapped[uuid.UUID | None]
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())


class Installation(Identified, Timestamped, Base):
    """One addon in one organization. `secret_hash` is `sha256:<hex>`, `secret_enc` the sealed secret (base64)."""

    __tablename__ = "metacore_installations"
    __table_args__ = (UniqueConstraint("organization_id", "addon_key"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"))
    addon_key: Mapped[str] = mapped_column(String(48), index=True)
    version: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), server_default="enabled")
    source: Mapped[str] = mapped_column(String(16), server_default="bundle")
    secret_hash: Mapped[str] = mapped_column(String(80), server_default="")
    secret_enc: Mapped[str] = mapped_column(Text, server_default="")
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    installed_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    enabled_at: Mapped[datetime.datetime | None]
    disabled_at: Mapped[datetime.datetime | None]


class AddonMigration(Base):
    """One SQL migration that ran in one schema; `checksum` is the file's SHA-256 in hex."""

    __tablename__ = "metacore_addon_migrations"

    schema: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[str] = mapped_column(String(160), primary_key=True)
    addon_key: Mapped[str] = mapped_column(String(48), index=True)
    checksum: Mapped[str] = mapped_column(String(64))
    applied_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())


class JournalEntry(Base):
    """One step of one attempt: `status` is running, done or failed. Converging after a kill starts from here."""

    __tablename__ = "metacore_journal"

    addon_key: Mapped[str] = mapped_column(String(48), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(Text, server_default="")
    started_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    finished_at: Mapped[datetime.datetime | None]


class AddonRequest(Identified, Base):
    """A wish of a tenant that needs the owner role: the reconciler claims it, executes it and writes the result.

    `kind` is install, enable, disable, uninstall or rotate_secret; `status` pending, running, done or failed.
    `result` never holds a secret in clear: `sealed_result` does, sealed for the kernel that asked.
    """

    __tablename__ = "metacore_requests"
    __table_args__ = (Index("ix_metacore_requests_status_created_at", "status", "created_at"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"), index=True)
    requested_by: Mapped[uuid.UUID]
    kind: Mapped[str] = mapped_column(String(16))
    addon_key: Mapped[str] = mapped_column(String(48))
    bundle: Mapped[bytes | None] = mapped_column(LargeBinary)
    signature: Mapped[dict[str, Any] | None]
    arguments: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    status: Mapped[str] = mapped_column(String(16), server_default="pending")
    result: Mapped[dict[str, Any] | None]
    sealed_result: Mapped[str] = mapped_column(Text, server_default="")
    error_code: Mapped[str] = mapped_column(String(64), server_default="")
    error_message: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    claimed_at: Mapped[datetime.datetime | None]
    finished_at: Mapped[datetime.datetime | None]


class Heartbeat(Base):
    """One live kernel process. `addons` maps a key to `{digest, error}` as loaded there; live means seen in the
    last 10 s of database time."""

    __tablename__ = "metacore_heartbeats"

    pod: Mapped[str] = mapped_column(String(128), primary_key=True)
    mode: Mapped[str] = mapped_column(String(16))
    build: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int] = mapped_column(BigInteger)
    addons: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    started_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    seen_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
