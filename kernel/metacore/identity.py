"""Who is asking: the verified caller of one request. Made by `auth`, read by everything above."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from metacore.ids import OrganizationId, SessionId, UserId

NOBODY = UserId(uuid.UUID(int=0))
ANY_ORGANIZATION = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose token, user and session were checked. `role` and `organization_id` come from the database.

    `expires_at` is the access token's end in Unix seconds; `token_digest` its SHA-256, the key of caches.
    """

    user_id: UserId
    organization_id: OrganizationId
    email: str
    role: str
    session_id: SessionId | None
    expires_at: float
    token_digest: bytes
    locale: str = ""

    @property
    def actor_id(self) -> UserId | None:
        """Who is written down as the author of a change: the user, None where no user asked for it."""
        return None if self.user_id == NOBODY else self.user_id


def nobody(organization_id: uuid.UUID) -> Principal:
    """Who acts in an organization when no user asked: an addon by its schedule, by an event, by a call from outside.

    It has no token and no role, so no route and no permission ever takes it for a user.
    """
    return Principal(
        user_id=NOBODY,
        organization_id=OrganizationId(organization_id),
        email="",
        role="",
        session_id=None,
        expires_at=0.0,
        token_digest=b"",
    )


def administered_by(organizations: Collection[str], organization_id: uuid.UUID) -> bool:
    """Whether an organization is one of those that administer the installation: `organizations` are ids, `*` is any."""
    return ANY_ORGANIZATION in organizations or str(organization_id) in organizations
