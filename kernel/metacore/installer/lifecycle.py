"""What happens to an addon after it was installed: switching, secrets, fencing, and taking it away.

Each is one transaction that holds the addon's lock, supersedes an installation under way where the two would meet, and
raises the registry's revision together with the rows it changes.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.errors import Misconfigured, NotFound
from metacore.installer import belongings, handlers, journal, observe, register, runner
from metacore.installer.preflight import check_owner, check_removable
from metacore.installer.register import SECRET_BYTES
from metacore.installer.state import State
from metacore.orm.tables import Addon, Bundle, Installation, JournalEntry
from metacore.secrets import Sealer


async def set_status(owner: Database, key: str, organization: uuid.UUID, status: str) -> int:
    async def once() -> int:
        async with runner.locked(owner, key) as connection:
            before = await _status(connection, key, organization)
            if before == status:
                return await register.current_revision(connection)
            now = datetime.datetime.now(datetime.UTC)
            values: dict[str, object] = {"status": status, "updated_at": now, f"{status}_at": now}
            await connection.execute(update(Installation).where(*_place(key, organization)).values(values))
            revision = await register.raise_registry(connection)
            enabled = status == "enabled"
            await handlers.switched(connection, key, organization, enabled=enabled, revision=revision)
            return revision

    return await runner.patiently(once, step=status)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """`digest` is the SHA-256 of an installation's secret, `value` the secret itself where the master key opens it."""

    digest: str
    value: bytes | None

    def is_of(self, secret: bytes) -> bool:
        return hmac.compare_digest(self.digest, hashlib.sha256(secret).hexdigest())


async def stored_secrets(owner: Database, key: str, sealer: Sealer | None) -> dict[uuid.UUID, StoredSecret]:
    async with runner.transaction(owner, reading=True) as connection:
        columns = (Installation.organization_id, Installation.secret_hash, Installation.secret_enc)
        rows = (await connection.execute(select(*columns).where(Installation.addon_key == key))).all()
    return {
        row.organization_id: StoredSecret(row.secret_hash.removeprefix("sha256:"), _opened(row.secret_enc, sealer))
        for row in rows
    }


def _opened(sealed: str, sealer: Sealer | None) -> bytes | None:
    try:
        return sealer.open(sealed) if sealer is not None and sealed else None
    except Misconfigured:
        return None  # Sealed with a master key of the past.


async def rotate_secret(
    owner: Database, key: str, organization: uuid.UUID, sealer: Sealer | None, given: bytes | None = None
) -> str:
    secret = given or secrets.token_bytes(SECRET_BYTES)

    async def once() -> str:
        async with runner.locked(owner, key) as connection:
            await _status(connection, key, organization)
            values = {**register.secret_columns(secret, sealer), "updated_at": datetime.datetime.now(datetime.UTC)}
            await connection.execute(update(Installation).where(*_place(key, organization)).values(values))
            await register.raise_registry(connection)
            return secret.hex()

    return await runner.patiently(once, step="rotate secret")


async def fence(owner: Database, key: str, reason: str) -> int:
    """NotFound: no such addon."""

    async def once() -> int:
        async with runner.locked(owner, key) as connection:
            row = (await connection.execute(select(Addon.fenced_reason).where(Addon.key == key))).first()
            if row is None:
                raise NotFound(f"there is no addon {key!r}", code="unknown_addon")
            if row.fenced_reason == reason[:64]:
                return await register.current_revision(connection)
            revision = await register.raise_registry(connection)
            await connection.execute(
                update(Addon).where(Addon.key == key).values(fenced_reason=reason[:64], revision=revision)
            )
            return revision

    return await runner.patiently(once, step="fence")


async def uninstall(
    owner: Database,
    key: str,
    organizations: Collection[uuid.UUID],
    *,
    drop: bool,
    owner_uid: str | None,
    kernel_role: str,
) -> int:
    async def once() -> int:
        async with runner.locked(owner, key) as connection:
            for organization in organizations:
                await _status(connection, key, organization)
            state = await _state(connection, key, kernel_role)
            if owner_uid is not None:
                check_owner(key, state, owner_uid)
            check_removable(key, state, organizations)
            await journal.next_attempt(connection, key)
            await belongings.leave(connection, key, state, organizations, drop=drop)
            await belongings.drop_guests(connection, key, kernel_role)
            return await register.raise_registry(connection)

    return await runner.patiently(once, step="uninstall")


async def check_uninstall(
    owner: Database, key: str, organizations: Collection[uuid.UUID], *, owner_uid: str | None, kernel_role: str
) -> None:
    """What `uninstall` would refuse, before anything is told to the addon.

    Raises:
        NotFound: it is not installed there. Conflict: another installed addon requires it. KeyOwned.
    """
    async with runner.transaction(owner, reading=True) as connection:
        for organization in organizations:
            await _status(connection, key, organization)
        state = await _state(connection, key, kernel_role)
        if owner_uid is not None:
            check_owner(key, state, owner_uid)
        check_removable(key, state, organizations)


async def check_remove(owner: Database, key: str, *, owner_uid: str, kernel_role: str) -> bool:
    """What `remove` would refuse; whether there is an addon that has something to lose.

    Raises:
        KeyOwned: somebody else claimed the key. Conflict: another installed addon requires it.
    """
    async with runner.transaction(owner, reading=True) as connection:
        state = await _state(connection, key, kernel_role)
        if state.addon is None:
            return False
        check_owner(key, state, owner_uid)
        check_removable(key, state, state.installed)
        return bool(state.installed)


async def remove(owner: Database, key: str, *, drop: bool, owner_uid: str, kernel_role: str) -> int:
    async def once() -> int:
        async with runner.locked(owner, key) as connection:
            state = await _state(connection, key, kernel_role)
            if state.addon is None and not (drop and state.schemas):
                return await register.current_revision(connection)
            check_owner(key, state, owner_uid)
            check_removable(key, state, state.installed)
            await belongings.leave(connection, key, state, tuple(state.installed), drop=drop, whole=True)
            await belongings.drop_guests(connection, key, kernel_role)
            await connection.execute(delete(JournalEntry).where(JournalEntry.addon_key == key))
            await connection.execute(delete(Addon).where(Addon.key == key))
            await connection.execute(delete(Bundle).where(Bundle.addon_key == key))
            return await register.raise_registry(connection)

    return await runner.patiently(once, step="remove")


def _place(key: str, organization: uuid.UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (Installation.addon_key == key, Installation.organization_id == organization)


async def _status(connection: AsyncConnection, key: str, organization: uuid.UUID) -> str:
    row = (await connection.execute(select(Installation.status).where(*_place(key, organization)))).first()
    if row is None:
        raise NotFound(f"addon {key!r} is not installed for organization {organization}", code="not_installed")
    return str(row.status)


async def _state(connection: AsyncConnection, key: str, kernel_role: str) -> State:
    state = await observe.load_state(
        connection, key, schemas=lambda _installed: (), kernel_role=kernel_role, host_models={}
    )
    return await observe.load_requirements(connection, state)
