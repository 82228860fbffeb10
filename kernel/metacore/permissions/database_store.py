"""Grants in the tables `permission_role_grants` and `permission_user_grants`, on PostgreSQL and SQLite."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db import channels
from metacore.db.database import Database
from metacore.errors import NotFound
from metacore.ids import new_uuid
from metacore.orm.accounts import RoleGrant, User, UserGrant
from metacore.orm.epochs import raise_epoch
from metacore.permissions.capabilities import parse_capability
from metacore.permissions.store import Changed

ROLE_KEY = ("organization_id", "role", "capability")
USER_KEY = ("organization_id", "user_id", "capability")


class DatabasePermissionStore:
    """A `WritablePermissionStore`. Each change, the raised epoch and the NOTIFY are one transaction."""

    def __init__(self, db: Database) -> None:
        self._database = db
        self._changed: list[Changed] = []

    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Collection[str]:
        statement = (
            sa.select(RoleGrant.capability)
            .where(RoleGrant.organization_id == organization_id, RoleGrant.role == role)
            .union(
                sa.select(UserGrant.capability).where(
                    UserGrant.organization_id == organization_id, UserGrant.user_id == user_id
                )
            )
        )
        async with self._database.transaction(organization_id) as connection:
            return (await connection.execute(statement)).scalars().all()

    async def grant_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool:
        values = {"organization_id": organization_id, "role": role, "capability": parse_capability(capability)}
        async with self._database.transaction(organization_id) as connection:
            changed = await _insert(connection, RoleGrant, ROLE_KEY, values)
        return self._tell(organization_id, changed)

    async def revoke_role(self, organization_id: uuid.UUID, role: str, capability: str) -> bool:
        values = {"organization_id": organization_id, "role": role, "capability": parse_capability(capability)}
        async with self._database.transaction(organization_id) as connection:
            changed = await _delete(connection, RoleGrant, values)
        return self._tell(organization_id, changed)

    async def grant_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool:
        """Raises:
        NotFound: no such user in this organization. The foreign key alone would take a user of any organization.
        """
        values = {"organization_id": organization_id, "user_id": user_id, "capability": parse_capability(capability)}
        member = sa.select(User.id).where(User.id == user_id, User.organization_id == organization_id)
        async with self._database.transaction(organization_id) as connection:
            if (await connection.execute(member)).one_or_none() is None:
                raise NotFound("no such user", code="unknown_user")
            changed = await _insert(connection, UserGrant, USER_KEY, values)
        return self._tell(organization_id, changed)

    async def revoke_user(self, organization_id: uuid.UUID, user_id: uuid.UUID, capability: str) -> bool:
        values = {"organization_id": organization_id, "user_id": user_id, "capability": parse_capability(capability)}
        async with self._database.transaction(organization_id) as connection:
            changed = await _delete(connection, UserGrant, values)
        return self._tell(organization_id, changed)

    async def role_grants(self, organization_id: uuid.UUID) -> Mapping[str, frozenset[str]]:
        statement = (
            sa.select(RoleGrant.role, RoleGrant.capability)
            .where(RoleGrant.organization_id == organization_id)
            .order_by(RoleGrant.role)
        )
        async with self._database.transaction(organization_id) as connection:
            rows = (await connection.execute(statement)).all()
        roles: dict[str, set[str]] = {}
        for row in rows:
            roles.setdefault(row.role, set()).add(row.capability)
        return {role: frozenset(names) for role, names in roles.items()}

    async def user_grants(self, organization_id: uuid.UUID, user_id: uuid.UUID) -> frozenset[str]:
        statement = sa.select(UserGrant.capability).where(
            UserGrant.organization_id == organization_id, UserGrant.user_id == user_id
        )
        async with self._database.transaction(organization_id) as connection:
            return frozenset((await connection.execute(statement)).scalars())

    def on_change(self, callback: Changed) -> None:
        self._changed.append(callback)

    def _tell(self, organization_id: uuid.UUID, changed: bool) -> bool:
        if changed:
            for callback in self._changed:
                callback(organization_id)
        return changed


async def _insert(
    connection: AsyncConnection, table: type[RoleGrant | UserGrant], key: tuple[str, ...], values: dict[str, Any]
) -> bool:
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(id=new_uuid(), **values).on_conflict_do_nothing(index_elements=list(key))
    changed = bool((await connection.execute(statement)).rowcount)
    if changed:
        await raise_epoch(connection, channels.PERMISSIONS, str(values["organization_id"]))
    return changed


async def _delete(connection: AsyncConnection, table: type[RoleGrant | UserGrant], values: dict[str, Any]) -> bool:
    changed = bool((await connection.execute(sa.delete(table).filter_by(**values))).rowcount)
    if changed:
        await raise_epoch(connection, channels.PERMISSIONS, str(values["organization_id"]))
    return changed
