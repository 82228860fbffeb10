"""Organizations, users, their sessions and what they were granted."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from metacore.orm.base import Base, Identified, Timestamped


class Organization(Identified, Timestamped, Base):
    """A tenant. `validators` maps a key to `{regex?, min?, max?, message?}`, the targets of `$org.<key>`."""

    __tablename__ = "organizations"

    name: Mapped[str] = mapped_column(String(255))
    validators: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")


class User(Identified, Timestamped, Base):
    """A person. `email` is stored lower-cased. `token_epoch` rises whenever issued tokens must stop working."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("email"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"), index=True)
    name: Mapped[str] = mapped_column(String(255))
    email: Mapped[str] = mapped_column(String(320))
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), server_default="active")
    token_epoch: Mapped[int] = mapped_column(server_default="0")
    last_login_at: Mapped[datetime.datetime | None]


class AuthSession(Identified, Base):
    """One login: a family of refresh tokens and the access tokens made with them."""

    __tablename__ = "auth_sessions"

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"), index=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    expires_at: Mapped[datetime.datetime]
    revoked_at: Mapped[datetime.datetime | None]
    revoked_reason: Mapped[str] = mapped_column(String(32), server_default="")


class RefreshToken(Identified, Base):
    """A single-use token, kept as the SHA-256 of its text."""

    __tablename__ = "auth_refresh_tokens"
    __table_args__ = (UniqueConstraint("token_hash"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"), index=True)
    session_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("auth_sessions.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
    expires_at: Mapped[datetime.datetime]
    used_at: Mapped[datetime.datetime | None]


class RoleGrant(Identified, Base):
    """Everybody of an organization with `role` holds `capability`, such as `tickets.read` or `*`."""

    __tablename__ = "permission_role_grants"
    __table_args__ = (UniqueConstraint("organization_id", "role", "capability"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"))
    role: Mapped[str] = mapped_column(String(64))
    capability: Mapped[str] = mapped_column(String(160))
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())


class UserGrant(Identified, Base):
    __tablename__ = "permission_user_grants"
    __table_args__ = (
        UniqueConstraint("organization_id", "user_id", "capability"),
        Index("ix_permission_user_grants_user_id", "user_id"),
    )

    organization_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("organizations.id"))
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    capability: Mapped[str] = mapped_column(String(160))
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp())
