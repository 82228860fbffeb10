"""The secret of an installation (contract 10), opened to sign and to verify what goes between kernel and backend.

The database holds it sealed with the master key. The kernel's role may read that column, of its current organization
only; without the key, which only the environment of a process has, it is worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select

from metacore.db.database import Database
from metacore.errors import NotFound, NotWired
from metacore.orm.addons import Installation
from metacore.secrets import Sealer


@dataclass(frozen=True, slots=True)
class InstallationSecret:
    """`secret` are the 32 bytes whose hex form was returned once, at the installation."""

    installation_id: UUID
    secret: bytes = field(repr=False)


class InstallationSecrets:
    def __init__(self, database: Database, sealer: Sealer | None) -> None:
        self._database = database
        self._sealer = sealer

    async def of(self, organization_id: UUID, addon_key: str) -> InstallationSecret:
        """The secret of the addon in that organization.

        Raises:
            NotFound: it is not installed there.
            NotWired: there is no master key, or there was none when it was installed: rotate the secret then.
            Misconfigured: it was sealed with another master key.
        """
        async with self._database.transaction(organization_id) as connection:
            row = (
                await connection.execute(
                    select(Installation.id, Installation.secret_enc).where(
                        Installation.organization_id == organization_id, Installation.addon_key == addon_key
                    )
                )
            ).one_or_none()
        if row is None:
            raise NotFound(f"addon {addon_key[:64]!r} is not installed", code="unknown_addon")
        if self._sealer is None:
            raise NotWired("calls to backends are signed: configure a master key", code="no_master_key")
        if not row.secret_enc:
            raise NotWired(
                f"the secret of addon {addon_key!r} was not stored, because there was no master key: rotate it",
                code="no_secret",
            )
        return InstallationSecret(row.id, self._sealer.open(row.secret_enc))
