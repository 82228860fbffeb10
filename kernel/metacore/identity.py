"""Who is asking: the verified caller of one request. Made by `auth`, read by everything above."""

from __future__ import annotations

from dataclasses import dataclass

from metacore.ids import OrganizationId, SessionId, UserId


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
