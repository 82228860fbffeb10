"""Organizations and users in the database. Every statement runs in the scope of one organization."""

from __future__ import annotations

import datetime
import uuid
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.auth.accounts import OrganizationAccount, UserAccount
from metacore.auth.lookups import insert_unless_taken, plain_uuid
from metacore.auth.rules import ACTIVE, OWNER
from metacore.db import channels
from metacore.db.database import Database
from metacore.errors import Conflict, NotFound
from metacore.ids import OrganizationId, UserId, new_uuid
from metacore.orm.accounts import AuthSession, Organization, User
from metacore.orm.epochs import raise_epoch

COLUMNS: Final = (
    User.id,
    User.organization_id,
    User.name,
    User.email,
    User.role,
    User.status,
    User.created_at,
    User.updated_at,
    User.last_login_at,
)


class UserStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_organization(self, name: str) -> OrganizationAccount:
        organization_id = OrganizationId(new_uuid())
        async with self._database.transaction(organization_id) as connection:
            await connection.execute(sa.insert(Organization).values(id=organization_id, name=name))
        return OrganizationAccount(organization_id, name)

    async def get_organization(self, organization_id: OrganizationId) -> OrganizationAccount:
        """Raises:
        NotFound: no such organization.
        """
        async with self._database.transaction(organization_id) as connection:
            return await _organization(connection, organization_id)

    async def register(
        self, organization_name: str, *, name: str, email: str, password_hash: str
    ) -> tuple[OrganizationAccount, UserAccount]:
        """A new organization and its owner, both or none.

        Raises:
            Conflict: the email is taken.
        """
        organization_id = OrganizationId(new_uuid())
        async with self._database.transaction(organization_id) as connection:
            await connection.execute(sa.insert(Organization).values(id=organization_id, name=organization_name))
            user = await _insert_user(connection, organization_id, name, email, password_hash, OWNER)
        return OrganizationAccount(organization_id, organization_name), user

    async def create_user(
        self, organization_id: OrganizationId, *, name: str, email: str, password_hash: str, role: str
    ) -> UserAccount:
        """Raises:
        NotFound: no such organization.
        Conflict: the email is taken, here or in another organization.
        """
        async with self._database.transaction(organization_id) as connection:
            await _organization(connection, organization_id)
            return await _insert_user(connection, organization_id, name, email, password_hash, role)

    async def get_user(self, organization_id: OrganizationId, user_id: UserId) -> UserAccount:
        """Raises:
        NotFound: no such user in this organization.
        """
        async with self._database.transaction(organization_id) as connection:
            return await _user(connection, organization_id, user_id)

    async def identity(
        self, organization_id: OrganizationId, user_id: UserId
    ) -> tuple[OrganizationAccount, UserAccount, int]:
        """What a login answers and a token needs: organization, user and token epoch, read at one moment.

        Raises:
            NotFound: no such user in this organization.
        """
        statement = (
            sa.select(*COLUMNS, User.token_epoch, Organization.name.label("organization_name"))
            .join(Organization, Organization.id == User.organization_id)
            .where(User.id == user_id, User.organization_id == organization_id)
        )
        async with self._database.transaction(organization_id) as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise NotFound("no such user", code="unknown_user")
        return OrganizationAccount(organization_id, row.organization_name), _account(row), row.token_epoch

    async def list_users(
        self, organization_id: OrganizationId, *, limit: int, offset: int, search: str = ""
    ) -> tuple[list[UserAccount], int]:
        """A page in the order of creation, and how many there are. `search` looks into name and email."""
        condition = User.organization_id == organization_id
        if search:
            condition &= sa.or_(
                User.name.icontains(search, autoescape=True), User.email.icontains(search, autoescape=True)
            )
        page = sa.select(*COLUMNS).where(condition).order_by(User.created_at, User.id).limit(limit).offset(offset)
        async with self._database.transaction(organization_id) as connection:
            rows = (await connection.execute(page)).all()
            total = (
                await connection.execute(sa.select(sa.func.count()).select_from(User).where(condition))
            ).scalar_one()
        return [_account(row) for row in rows], total

    async def change(
        self,
        organization_id: OrganizationId,
        user_id: UserId,
        *,
        name: str | None = None,
        role: str | None = None,
        status: str | None = None,
        password_hash: str | None = None,
        expected_role: str | None = None,
        now: datetime.datetime,
    ) -> tuple[UserAccount, bool]:
        """The user after the change, and whether that ended tokens.

        A new role, status or password raises the token epoch, so that no access token from before works on; a new
        password or a disabled user ends the sessions too, refresh tokens with them.

        Raises:
            NotFound: no such user in this organization.
            Conflict: the change would leave the organization without an active owner, or the role is not
                `expected_role` any more.
        """
        async with self._database.transaction(organization_id) as connection:
            current = await _locked(connection, organization_id, user_id)
            if expected_role is not None and current.role != expected_role:
                raise Conflict("the user's role was changed meanwhile: look again", code="role_changed")
            values: dict[str, Any] = {}
            if name is not None and name != current.name:
                values["name"] = name
            if role is not None and role != current.role:
                values["role"] = role
            if status is not None and status != current.status:
                values["status"] = status
            if password_hash is not None:
                values["password_hash"] = password_hash
            if not values:
                return current, False
            ends_tokens = not values.keys() <= {"name"}
            if ends_tokens:
                values["token_epoch"] = User.token_epoch + 1
            await connection.execute(sa.update(User).where(User.id == user_id).values(**values))
            if current.role == OWNER and current.active and ("role" in values or "status" in values):
                await _require_owner(connection, organization_id)
            if password_hash is not None or values.get("status", ACTIVE) != ACTIVE:
                reason = "password" if password_hash is not None else "disabled"
                await connection.execute(
                    sa.update(AuthSession)
                    .where(AuthSession.user_id == user_id, AuthSession.revoked_at.is_(None))
                    .values(revoked_at=now, revoked_reason=reason)
                )
            changed = await _user(connection, organization_id, user_id)
            if ends_tokens:
                await raise_epoch(connection, channels.AUTH, str(user_id))
        return changed, ends_tokens

    async def replace_hash(self, organization_id: OrganizationId, user_id: UserId, *, old: str, new: str) -> None:
        """Store a hash of the same password made with other parameters, unless the password was changed meanwhile."""
        async with self._database.transaction(organization_id) as connection:
            await connection.execute(
                sa.update(User)
                .where(User.id == user_id, User.password_hash == old)
                .values(password_hash=new, updated_at=User.updated_at)
            )


async def _organization(connection: AsyncConnection, organization_id: uuid.UUID) -> OrganizationAccount:
    statement = sa.select(Organization.id, Organization.name).where(Organization.id == organization_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound("no such organization", code="unknown_organization")
    return OrganizationAccount(OrganizationId(plain_uuid(row.id)), row.name)


async def _user(connection: AsyncConnection, organization_id: uuid.UUID, user_id: uuid.UUID) -> UserAccount:
    statement = sa.select(*COLUMNS).where(User.id == user_id, User.organization_id == organization_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound("no such user", code="unknown_user")
    return _account(row)


async def _locked(connection: AsyncConnection, organization_id: uuid.UUID, user_id: uuid.UUID) -> UserAccount:
    """The user, locked together with every active owner and in one order, so that two owners who demote each other at
    the same moment wait for one another instead of both succeeding. SQLite locks nothing here: see `_require_owner`."""
    statement = (
        sa.select(*COLUMNS)
        .where(
            User.organization_id == organization_id,
            sa.or_(User.id == user_id, sa.and_(User.role == OWNER, User.status == ACTIVE)),
        )
        .order_by(User.id)
        .with_for_update()
    )
    for row in (await connection.execute(statement)).all():
        if plain_uuid(row.id) == user_id:
            return _account(row)
    raise NotFound("no such user", code="unknown_user")


async def _require_owner(connection: AsyncConnection, organization_id: uuid.UUID) -> None:
    """Counted after the update: on SQLite that holds the write lock by now, so no other writer can interfere."""
    statement = sa.select(sa.func.count()).where(
        User.organization_id == organization_id, User.role == OWNER, User.status == ACTIVE
    )
    if not (await connection.execute(statement)).scalar_one():
        raise Conflict("the last owner of an organization must stay an active owner", code="last_owner")


async def _insert_user(
    connection: AsyncConnection, organization_id: uuid.UUID, name: str, email: str, password_hash: str, role: str
) -> UserAccount:
    user_id = new_uuid()
    values = {
        "id": user_id,
        "organization_id": organization_id,
        "name": name,
        "email": email,
        "password_hash": password_hash,
        "role": role,
        "status": ACTIVE,
    }
    if not await insert_unless_taken(connection, User, "email", values):
        raise Conflict("a user with this email exists already", code="email_taken")
    return await _user(connection, organization_id, user_id)


def _account(row: sa.Row[*tuple[Any, ...]]) -> UserAccount:
    return UserAccount(
        id=UserId(plain_uuid(row.id)),
        organization_id=OrganizationId(plain_uuid(row.organization_id)),
        name=row.name,
        email=row.email,
        role=row.role,
        status=row.status,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_login_at=row.last_login_at,
    )
