"""Sessions and their refresh tokens in the database: one login is one session, one family of single-use tokens."""

from __future__ import annotations

import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.auth.lookups import Credentials, FoundRefresh
from metacore.auth.rules import ACTIVE
from metacore.auth.token_cache import SessionFacts
from metacore.auth.tokens import AccessClaims
from metacore.db import channels
from metacore.db.database import Database
from metacore.ids import OrganizationId, SessionId, UserId, new_uuid
from metacore.orm.accounts import AuthSession, RefreshToken, User
from metacore.orm.epochs import raise_epoch

REUSED: Final = "reused"
LOGOUT: Final = "logout"


class SessionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self,
        credentials: Credentials,
        *,
        token_hash: str,
        now: datetime.datetime,
        session_expires_at: datetime.datetime,
        token_expires_at: datetime.datetime,
    ) -> SessionId | None:
        """A new session with its first refresh token; None when the user was changed since the password was checked."""
        session_id = SessionId(new_uuid())
        async with self._database.transaction(credentials.organization_id) as connection:
            # Locks the user, so that a change of password or status either comes first and is seen here, or comes
            # after and ends this session.
            touched = await connection.execute(
                sa.update(User)
                .where(
                    User.id == credentials.user_id,
                    User.token_epoch == credentials.token_epoch,
                    User.status == ACTIVE,
                )
                .values(last_login_at=now, updated_at=User.updated_at)
            )
            if not touched.rowcount:
                return None
            await connection.execute(
                sa.insert(AuthSession).values(
                    id=session_id,
                    organization_id=credentials.organization_id,
                    user_id=credentials.user_id,
                    expires_at=session_expires_at,
                )
            )
            await _add_token(connection, credentials.organization_id, session_id, token_hash, token_expires_at)
        return session_id

    async def rotate(
        self, found: FoundRefresh, *, token_hash: str, now: datetime.datetime, token_expires_at: datetime.datetime
    ) -> bool:
        """Spend `found` and store its successor. False when it was spent before: the whole family is revoked then.

        Of two uses at the same moment exactly one spends the token; the other waits for that on the row and then
        counts as reuse, as nobody can tell a hasty client from a thief.
        """
        async with self._database.transaction(found.organization_id) as connection:
            spent = await connection.execute(
                sa.update(RefreshToken)
                .where(RefreshToken.id == found.token_id, RefreshToken.used_at.is_(None))
                .values(used_at=now)
            )
            if not spent.rowcount:
                await _revoke(connection, found.session_id, found.user_id, REUSED, now)
                return False
            await _add_token(connection, found.organization_id, found.session_id, token_hash, token_expires_at)
        return True

    async def revoke(
        self, organization_id: OrganizationId, user_id: UserId, session_id: SessionId, *, now: datetime.datetime
    ) -> bool:
        """End a session because its user wished so. False when it had ended before."""
        async with self._database.transaction(organization_id) as connection:
            return await _revoke(connection, session_id, user_id, LOGOUT, now)

    async def facts(self, claims: AccessClaims) -> SessionFacts | None:
        """The session of a verified token and its user, None when there is no such pair in that organization."""
        statement = (
            sa.select(
                User.email,
                User.role,
                User.status,
                User.token_epoch,
                AuthSession.expires_at,
                AuthSession.revoked_at,
            )
            .join(AuthSession, AuthSession.user_id == User.id)
            .where(
                AuthSession.id == claims.session_id,
                User.id == claims.user_id,
                User.organization_id == claims.organization_id,
            )
        )
        async with self._database.transaction(claims.organization_id) as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return SessionFacts(
            user_id=claims.user_id,
            organization_id=claims.organization_id,
            email=row.email,
            role=row.role,
            status=row.status,
            epoch=row.token_epoch,
            session_expires_at=row.expires_at,
            session_revoked=row.revoked_at is not None,
        )


async def purge_sessions(owner: Database, *, now: datetime.datetime) -> int:
    """Delete ended sessions and refresh tokens of every organization, and say how many rows went.

    For the owner's database: the kernel's role may not delete them. Revoked sessions and spent tokens stay until their
    end, because until then a reuse has to be recognised.
    """
    async with owner.transaction(None) as connection:
        tokens = await connection.execute(sa.delete(RefreshToken).where(RefreshToken.expires_at <= now))
        sessions = await connection.execute(sa.delete(AuthSession).where(AuthSession.expires_at <= now))
    return tokens.rowcount + sessions.rowcount


async def _add_token(
    connection: AsyncConnection,
    organization_id: OrganizationId,
    session_id: SessionId,
    token_hash: str,
    expires_at: datetime.datetime,
) -> None:
    await connection.execute(
        sa.insert(RefreshToken).values(
            id=new_uuid(),
            organization_id=organization_id,
            session_id=session_id,
            token_hash=token_hash,
            expires_at=expires_at,
        )
    )


async def _revoke(
    connection: AsyncConnection, session_id: SessionId, user_id: UserId, reason: str, now: datetime.datetime
) -> bool:
    revoked = await connection.execute(
        sa.update(AuthSession)
        .where(AuthSession.id == session_id, AuthSession.user_id == user_id, AuthSession.revoked_at.is_(None))
        .values(revoked_at=now, revoked_reason=reason)
    )
    if revoked.rowcount:
        await raise_epoch(connection, channels.AUTH, str(user_id))
    return bool(revoked.rowcount)
