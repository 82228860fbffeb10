"""Rows that most tests start from."""

from __future__ import annotations

import hashlib
import time
import uuid

from argon2 import PasswordHasher

from metacore.db.database import Database
from metacore.identity import Principal
from metacore.ids import OrganizationId, UserId, new_uuid
from metacore.orm.tables import Organization, User

PASSWORD = "correct horse battery"
quick_hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""The parameters stand in the hash, so it verifies anywhere; tests have no passwords worth protecting."""


async def make_organization(owner_db: Database, name: str = "Acme") -> OrganizationId:
    organization_id = OrganizationId(new_uuid())
    async with owner_db.session(organization_id) as session:
        session.add(Organization(id=organization_id, name=name))
    return organization_id


async def make_user(
    owner_db: Database,
    organization_id: uuid.UUID,
    email: str = "",
    role: str = "owner",
    password: str = PASSWORD,
    name: str = "Ada",
    status: str = "active",
) -> UserId:
    """A user with a password hash as `auth` stores it (argon2id); without `email` one is made up."""
    user_id = UserId(new_uuid())
    async with owner_db.session(organization_id) as session:
        session.add(
            User(
                id=user_id,
                organization_id=organization_id,
                name=name,
                email=(email or f"{user_id.hex[:12]}@example.com").lower(),
                password_hash=quick_hasher.hash(password),
                role=role,
                status=status,
            )
        )
    return user_id


def principal(organization_id: uuid.UUID, user_id: uuid.UUID | None = None, role: str = "owner") -> Principal:
    """A verified caller, as `auth` would hand it on."""
    subject = UserId(user_id or new_uuid())
    return Principal(
        user_id=subject,
        organization_id=OrganizationId(organization_id),
        email=f"{subject.hex[:12]}@example.com",
        role=role,
        session_id=None,
        expires_at=time.time() + 3600,
        token_digest=hashlib.sha256(subject.bytes).digest(),
    )
