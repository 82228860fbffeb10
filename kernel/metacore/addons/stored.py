"""Reading what is installed: one consistent picture of the addon tables, on PostgreSQL and SQLite."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import column, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.errors import MetacoreError
from metacore.orm.tables import Addon, Bundle, Installation, Registry

REGISTRY_ROW = 1
MOST_READS = 5
"""Readings of a picture before an addon that changes all the time is taken as it is; the next revision mends it."""


@dataclass(frozen=True, slots=True)
class AddonRow:
    """What decides how an addon is served; `revision` is the registry's at its last change."""

    key: str
    digest: str
    version: str
    source: str
    mode: str
    fenced_reason: str
    enabled: bool
    revision: int
    grants: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class InstalledRow:
    organization_id: uuid.UUID
    id: uuid.UUID
    addon_key: str
    version: str
    status: str
    source: str


@dataclass(frozen=True, slots=True)
class BundleRow:
    content: bytes
    signature: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything of one revision."""

    revision: int
    addons: tuple[AddonRow, ...]
    installed: tuple[InstalledRow, ...]

    def organizations_of(self, key: str) -> list[uuid.UUID]:
        return sorted(row.organization_id for row in self.installed if row.addon_key == key)

    def enabled(self, key: str) -> bool:
        return any(row.key == key and row.enabled for row in self.addons)


async def read_picture(database: Database) -> Picture:
    """What is installed. A revision is committed together with its changes, so a picture is whole when the revision is
    the same before and after."""
    async with database.transaction(None) as connection:
        before = await _revision(connection)
        for _ in range(MOST_READS):
            addons, installed = await _addons(connection), await _installed(connection)
            after = await _revision(connection)
            if after == before:
                break
            before = after
    return Picture(before, addons, installed)


async def read_revision(database: Database) -> int:
    async with database.transaction(None) as connection:
        return await _revision(connection)


async def read_bundle_row(database: Database, digest: str) -> BundleRow:
    """The archive with this digest.

    Raises:
        MetacoreError: it is not stored.
    """
    async with database.transaction(None) as connection:
        row = (
            await connection.execute(select(Bundle.content, Bundle.signature).where(Bundle.digest == digest))
        ).one_or_none()
    if row is None:
        raise MetacoreError(f"the bundle {digest} is not in the database")
    return BundleRow(row.content, row.signature)


async def _revision(connection: AsyncConnection) -> int:
    found = await connection.execute(select(Registry.revision).where(Registry.id == REGISTRY_ROW))
    return int(found.scalar_one())


async def _addons(connection: AsyncConnection) -> tuple[AddonRow, ...]:
    rows = await connection.execute(
        select(
            Addon.key,
            Addon.digest,
            Addon.version,
            Addon.source,
            Addon.mode,
            Addon.fenced_reason,
            Addon.enabled,
            Addon.revision,
            Addon.grants,
        )
        # A row without digest is an installation that never came to its end.
        .where(Addon.digest.is_not(None))
        .order_by(Addon.key)
    )
    return tuple(
        AddonRow(
            row.key,
            row.digest or "",
            row.version,
            row.source,
            row.mode,
            row.fenced_reason,
            row.enabled,
            row.revision,
            tuple(row.grants),
        )
        for row in rows
    )


async def _installed(connection: AsyncConnection) -> tuple[InstalledRow, ...]:
    names = ("organization_id", "id", "addon_key", "version", "status", "source")
    if connection.dialect.name == "postgresql":
        # The kernel's role sees one organization at a time; this function sees all of them, without secrets.
        source = func.metacore_installed().table_valued(*(column(name) for name in names))
        rows = await connection.execute(select(source))
    else:
        rows = await connection.execute(select(*(getattr(Installation, name) for name in names)))
    return tuple(
        InstalledRow(row.organization_id, row.id, row.addon_key, row.version, row.status, row.source) for row in rows
    )
