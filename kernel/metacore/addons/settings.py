"""Settings of an installation: checked against the manifest, secrets sealed, and never given back."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import select, update

from metacore.addons.guest_context import GuestContext
from metacore.db.database import Database
from metacore.errors import MetacoreError, NotFound, NotWired, Refused
from metacore.logs import get_logger
from metacore.manifest.model import Setting
from metacore.manifest.setting_values import problem_of
from metacore.orm.addons import Installation
from metacore.registry import LiveAddon, Registry
from metacore.secrets import Sealer

log = get_logger(__name__)

SEALED = "$sealed"
MAX_PROBLEMS = 50


class InstallationSettings:
    """Reads and writes `metacore_installations.settings` of the caller's organization."""

    def __init__(self, database: Database, registry: Registry, sealer: Sealer | None) -> None:
        self._database = database
        self._registry = registry
        self._sealer = sealer

    async def read(self, organization_id: UUID, key: str) -> dict[str, Any]:
        """`{definitions, values, secrets_set}`: what is declared, values without secrets, and which secrets exist.

        Raises:
            NotFound: the addon is not installed for that organization.
        """
        addon = self._addon(organization_id, key)
        stored = await self._stored(organization_id, key)
        definitions = addon.manifest.settings
        return {
            "definitions": [_definition_json(setting) for setting in definitions],
            "values": {
                setting.key: _shown(stored.get(setting.key, setting.default_value))
                for setting in definitions
                if not setting.secret
            },
            "secrets_set": [setting.key for setting in definitions if setting.secret and setting.key in stored],
        }

    async def write(self, organization_id: UUID, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Change the settings that `values` names; null takes one back to its default. Returns what `read` gives.

        Raises:
            NotFound: the addon is not installed for that organization.
            Refused: an unknown setting or a value that cannot be one; fifty problems at most are named, and nothing is
                written.
            NotWired: a secret is set and no master key is configured to seal it.
        """
        addon = self._addon(organization_id, key)
        declared = {setting.key: setting for setting in addon.manifest.settings}
        problems = [
            problem for name, value in values.items() if (problem := problem_of(declared.get(name), name, value))
        ]
        if problems:
            raise Refused(
                f"settings of {key!r} refused: {problems[0].message}", code="settings", problems=problems[:MAX_PROBLEMS]
            )
        sealed = {name: self._seal(declared[name], value) for name, value in values.items() if value is not None}
        async with self._database.transaction(organization_id) as connection:
            row = Installation.__table__
            place = (Installation.organization_id == organization_id, Installation.addon_key == key)
            stored = (
                await connection.execute(select(Installation.settings).where(*place).with_for_update())
            ).scalar_one_or_none()
            if stored is None:
                raise NotFound(f"addon {key!r} is not installed")
            merged = {
                name: value for name, value in {**stored, **sealed}.items() if values.get(name, value) is not None
            }
            now = datetime.datetime.now(datetime.UTC)
            await connection.execute(
                update(Installation).where(*place).values({row.c.settings: merged, row.c.updated_at: now})
            )
        return await self.read(organization_id, key)

    async def for_code(self, context: GuestContext, addon: LiveAddon) -> dict[str, Any]:
        """What the addon's code may know: values by key, secrets in clear, defaults where nothing was set.

        A secret that cannot be opened (no master key, or another one) is left out, and the log says so.
        """
        stored = await self._stored(context.organization_id, addon.key)
        values: dict[str, Any] = {}
        for setting in addon.manifest.settings:
            value = stored.get(setting.key, setting.default_value)
            try:
                values[setting.key] = self._opened(value)
            except MetacoreError as error:
                log.error("addon.setting_sealed", addon=addon.key, setting=setting.key, reason=error.message)
        return values

    def _opened(self, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {SEALED}:
            return value
        if self._sealer is None:
            raise NotWired("there is no master key to open it")
        return orjson.loads(self._sealer.open(value[SEALED]))

    def _seal(self, setting: Setting, value: Any) -> Any:
        if not setting.secret:
            return value
        if self._sealer is None:
            raise NotWired(f"setting {setting.key!r} is a secret: configure a master key to store it")
        return {SEALED: self._sealer.seal(orjson.dumps(value))}

    def _addon(self, organization_id: UUID, key: str) -> LiveAddon:
        snapshot = self._registry.snapshot
        addon = snapshot.addons.get(key)
        if addon is None or key not in snapshot.installed.get(organization_id, {}):
            raise NotFound(f"addon {key[:64]!r} is not installed", code="unknown_addon")
        return addon

    async def _stored(self, organization_id: UUID, key: str) -> Mapping[str, Any]:
        async with self._database.transaction(organization_id) as connection:
            stored = (
                await connection.execute(
                    select(Installation.settings).where(
                        Installation.organization_id == organization_id, Installation.addon_key == key
                    )
                )
            ).scalar_one_or_none()
        return stored or {}


def _shown(value: Any) -> Any:
    """A value that was sealed under an older manifest, which called the setting a secret, stays one."""
    return None if isinstance(value, dict) and value.keys() == {SEALED} else value


def _definition_json(setting: Setting) -> dict[str, Any]:
    shown = setting.model_dump(mode="json", exclude_defaults=True)
    return {"key": setting.key, "label": setting.label or setting.key, "type": setting.type, **shown} | (
        {"default_value": None} if setting.secret else {}
    )
