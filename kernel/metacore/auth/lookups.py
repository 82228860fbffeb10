"""The two questions that look across tenants, and the only place where the dialects differ.

On PostgreSQL the kernel's role sees no row without an organization, so both go through SECURITY DEFINER functions that
answer exactly this (`db/definers.py`). SQLite has no roles: there they are plain statements.
"""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.ids import OrganizationId, SessionId, UserId
from metacore.orm.accounts import AuthSession, RefreshToken, User
from metacore.orm.base import UtcDateTime


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is needed to check a password; never leaves this room."""

    user_id: UserId
    organization_id: OrganizationId
    password_hash: str = field(repr=False)
    status: str
    token_epoch: int


@dataclass(frozen=True, slots=True)
class FoundRefresh:
    """A refresh token that exists, and its session."""

    token_id: uuid.UUID
    session_id: SessionId
    organization_id: OrganizationId
    user_id: UserId
    expires_at: datetime.datetime
    session_revoked_at: datetime.datetime | None
    session_expires_at: datetime.datetime


_UUID = sa.Uuid(as_uuid=True)
_LOGIN = sa.text("SELECT id, organization_id, password_hash, status, token_epoch FROM metacore_login(:email)")
_LOGIN_PLAIN = sa.select(User.id, User.organization_id, User.password_hash, User.status, User.token_epoch).where(
    User.email == sa.bindparam("email")
)
_REFRESH = sa.text(
    "SELECT token_id, session_id, organization_id, user_id, expires_at, session_revoked_at, session_expires_at "
    "FROM metacore_refresh(:token_hash)"
).columns(
    token_id=_UUID,
    session_id=_UUID,
    organization_id=_UUID,
    user_id=_UUID,
    expires_at=UtcDateTime(),
    session_revoked_at=UtcDateTime(),
    session_expires_at=UtcDateTime(),
)
_REFRESH_PLAIN = (
    sa.select(
        RefreshToken.id.label("token_id"),
        AuthSession.id.label("session_id"),
        AuthSession.organization_id,
        AuthSession.user_id,
        RefreshToken.expires_at,
        AuthSession.revoked_at.label("session_revoked_at"),
        AuthSession.expires_at.label("session_expires_at"),
    )
    .join(AuthSession, AuthSession.id == RefreshToken.session_id)
    .where(RefreshToken.token_hash == sa.bindparam("token_hash"))
)


async def find_credentials(database: Database, email: str) -> Credentials | None:
    """Of the user with this normalized email, in whichever organization."""
    statement = _LOGIN if database.dialect == "postgresql" else _LOGIN_PLAIN
    async with database.transaction(None) as connection:
        row = (await connection.execute(statement, {"email": email})).one_or_none()
    if row is None:
        return None
    return Credentials(
        UserId(plain_uuid(row.id)),
        OrganizationId(plain_uuid(row.organization_id)),
        row.password_hash,
        row.status,
        row.token_epoch,
    )


async def find_refresh_token(database: Database, token_hash: str) -> FoundRefresh | None:
    """The refresh token with this hash, spent or not, in whichever organization."""
    statement = _REFRESH if database.dialect == "postgresql" else _REFRESH_PLAIN
    async with database.transaction(None) as connection:
        row = (await connection.execute(statement, {"token_hash": token_hash})).one_or_none()
    if row is None:
        return None
    return FoundRefresh(
        token_id=plain_uuid(row.token_id),
        session_id=SessionId(plain_uuid(row.session_id)),
        organization_id=OrganizationId(plain_uuid(row.organization_id)),
        user_id=UserId(plain_uuid(row.user_id)),
        expires_at=row.expires_at,
        session_revoked_at=row.session_revoked_at,
        session_expires_at=row.session_expires_at,
    )


async def insert_unless_taken(
    connection: AsyncConnection, table: type[User], column: str, values: dict[str, Any]
) -> bool:
    """Insert a row unless `column`, which is unique over all tenants, is taken; false then, and nothing is aborted."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(**values).on_conflict_do_nothing(index_elements=[column])
    return bool((await connection.execute(statement)).rowcount)


def plain_uuid(value: uuid.UUID) -> uuid.UUID:
    """asyncpg answers with a subclass of `uuid.UUID` that JSON writers do not know."""
    return uuid.UUID(int=value.int)
