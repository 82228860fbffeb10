"""Values of accounts as they leave this room. None of them holds a password hash."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from metacore.auth.rules import ACTIVE
from metacore.ids import OrganizationId, UserId


@dataclass(frozen=True, slots=True)
class OrganizationAccount:
    id: OrganizationId
    name: str

    def as_json(self) -> dict[str, Any]:
        return {"id": str(self.id), "name": self.name}


@dataclass(frozen=True, slots=True)
class UserAccount:
    id: UserId
    organization_id: OrganizationId
    name: str
    email: str
    role: str
    status: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    last_login_at: datetime.datetime | None = None

    @property
    def active(self) -> bool:
        return self.status == ACTIVE

    def as_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "organization_id": str(self.organization_id),
            "name": self.name,
            "email": self.email,
            "role": self.role,
            "status": self.status,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "last_login_at": self.last_login_at,
        }


@dataclass(frozen=True, slots=True)
class LoginResult:
    """What login, registration and refresh answer: `{user, organization, token, expires_at, refresh_token}`."""

    user: UserAccount
    organization: OrganizationAccount
    token: str = field(repr=False)
    expires_at: datetime.datetime
    refresh_token: str = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "user": self.user.as_json(),
            "organization": self.organization.as_json(),
            "token": self.token,
            "expires_at": self.expires_at,
            "refresh_token": self.refresh_token,
        }


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What to change of a user; None leaves a thing as it is. `expected_role` guards a decision made about the user
    as read before: when the role is another one by now, nothing is changed."""

    name: str | None = None
    role: str | None = None
    status: str | None = None
    password: str | None = field(default=None, repr=False)
    expected_role: str | None = None
