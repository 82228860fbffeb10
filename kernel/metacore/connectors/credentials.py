"""Credentials of connectors, per organization: sealed as a whole, told to nobody but the addon that declares them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import delete, insert, select, update

from metacore.db.database import Database
from metacore.errors import NotFound, NotWired, Problem, Refused
from metacore.manifest.model import Connector
from metacore.manifest.setting_values import problem_of
from metacore.orm.connectors import ConnectorCredentials
from metacore.registry import Registry
from metacore.secrets import Sealer

MAX_PROBLEMS: Final = 50
MAX_TEST_ERROR: Final = 500

_Row = ConnectorCredentials


class Credentials:
    """`sealer` None: credentials can be neither set nor read, and every attempt says so."""

    def __init__(self, database: Database, registry: Registry, sealer: Sealer | None) -> None:
        self._database = database
        self._registry = registry
        self._sealer = sealer

    async def listed(self, organization_id: UUID, addon_key: str) -> list[dict[str, Any]]:
        """Every declared connector: `{key, label, description, auth, definitions, configured, credentials_set,
        testable, updated_at, tested_at, test_error}`. Of values only the names of those that are set.

        Raises:
            NotFound: the addon is not installed for that organization.
        """
        connectors = self._connectors(organization_id, addon_key)
        async with self._database.transaction(organization_id) as connection:
            found = await connection.execute(select(_Row).where(*_place(organization_id, addon_key)))
            rows = {row.connector_key: row for row in found}
        return [self._told(connector, rows.get(connector.key)) for connector in connectors.values()]

    async def write(
        self, organization_id: UUID, addon_key: str, connector_key: str, values: Mapping[str, Any], by: UUID | None
    ) -> dict[str, Any]:
        """Set the credentials that `values` names; null takes one away. Returns what `listed` tells of the connector.

        Raises:
            NotFound: no such connector of an addon that is installed there.
            Refused: an unknown credential, a value that cannot be one, or one that is required and missing.
            NotWired: no master key is configured to seal them.
        """
        connector = self._connector(organization_id, addon_key, connector_key)
        sealer = self._need_sealer()
        declared = {setting.key: setting for setting in connector.credentials}
        problems = [
            problem
            for name, value in values.items()
            if (problem := problem_of(declared.get(name), name, value, what="a credential of this connector"))
        ]
        place = (*_place(organization_id, addon_key), _Row.connector_key == connector_key)
        async with self._database.transaction(organization_id) as connection:
            row = (await connection.execute(select(_Row.id, _Row.sealed).where(*place).with_for_update())).one_or_none()
            stored = orjson.loads(sealer.open(row.sealed)) if row is not None else {}
            merged = {name: value for name, value in {**stored, **values}.items() if value is not None}
            merged = {name: value for name, value in merged.items() if name in declared}
            problems += [
                Problem(setting.key, "required", f"{setting.key!r} is required")
                for setting in connector.credentials
                if setting.required and merged.get(setting.key, setting.default_value) in (None, "")
            ]
            if problems:
                raise Refused(
                    f"credentials of {connector_key!r} refused: {problems[0].message}",
                    code="credentials",
                    problems=problems[:MAX_PROBLEMS],
                )
            changed: dict[str, Any] = {
                "sealed": sealer.seal(orjson.dumps(merged)),
                "updated_by": by,
                "updated_at": datetime.datetime.now(datetime.UTC),
                "tested_at": None,
                "test_error": "",
            }
            if row is None:
                key = {"organization_id": organization_id, "addon_key": addon_key, "connector_key": connector_key}
                await connection.execute(insert(_Row).values(**key, **changed))
            else:
                await connection.execute(update(_Row).where(_Row.id == row.id).values(**changed))
            written = (await connection.execute(select(_Row).where(*place))).one()
        return self._told(connector, written)

    async def delete(self, organization_id: UUID, addon_key: str, connector_key: str) -> None:
        """Forget the credentials; there may be none.

        Raises:
            NotFound: no such connector of an addon that is installed there.
        """
        self._connector(organization_id, addon_key, connector_key)
        place = (*_place(organization_id, addon_key), _Row.connector_key == connector_key)
        async with self._database.transaction(organization_id) as connection:
            await connection.execute(delete(_Row).where(*place))

    async def opened(self, organization_id: UUID, addon_key: str, connector_key: str) -> dict[str, Any]:
        """The credentials in clear, defaults where nothing was set.

        Raises:
            NotFound: `unknown_connector`, or `not_configured` when the organization has set none.
            NotWired: there is no master key. Misconfigured: they were sealed with another one.
        """
        connector = self._connector(organization_id, addon_key, connector_key)
        sealer = self._need_sealer()
        place = (*_place(organization_id, addon_key), _Row.connector_key == connector_key)
        async with self._database.transaction(organization_id) as connection:
            sealed = (await connection.execute(select(_Row.sealed).where(*place))).scalar_one_or_none()
        if sealed is None and connector.credentials:
            raise NotFound(f"connector {connector_key!r} has no credentials yet", code="not_configured")
        stored = orjson.loads(sealer.open(sealed)) if sealed is not None else {}
        return {setting.key: stored.get(setting.key, setting.default_value) for setting in connector.credentials}

    async def tested(self, organization_id: UUID, addon_key: str, connector_key: str, error: str) -> None:
        """Remember what a test came to; '' when it passed."""
        place = (*_place(organization_id, addon_key), _Row.connector_key == connector_key)
        values = {"tested_at": datetime.datetime.now(datetime.UTC), "test_error": error[:MAX_TEST_ERROR]}
        async with self._database.transaction(organization_id) as connection:
            await connection.execute(update(_Row).where(*place).values(**values))

    def declared(self, organization_id: UUID, addon_key: str, connector_key: str) -> Connector:
        """The connector as the manifest declares it; raises as `opened` does."""
        return self._connector(organization_id, addon_key, connector_key)

    def _told(self, connector: Connector, row: Any) -> dict[str, Any]:
        stored: dict[str, Any] = {}
        if row is not None and self._sealer is not None:
            stored = orjson.loads(self._sealer.open(row.sealed))
        return {
            "key": connector.key,
            "label": connector.label or connector.key,
            "description": connector.description,
            "auth": connector.auth,
            "definitions": [
                setting.model_dump(mode="json", exclude_defaults=True) | {"type": setting.type}
                for setting in connector.credentials
            ],
            "configured": row is not None,
            "credentials_set": sorted(stored),
            "testable": bool(connector.test_export),
            "updated_at": row.updated_at if row is not None else None,
            "tested_at": row.tested_at if row is not None else None,
            "test_error": row.test_error if row is not None else "",
        }

    def _need_sealer(self) -> Sealer:
        if self._sealer is None:
            raise NotWired("credentials are sealed: configure a master key to keep them", code="no_master_key")
        return self._sealer

    def _connector(self, organization_id: UUID, addon_key: str, connector_key: str) -> Connector:
        connector = self._connectors(organization_id, addon_key).get(connector_key)
        if connector is None:
            raise NotFound(f"addon {addon_key!r} has no connector {connector_key[:64]!r}", code="unknown_connector")
        return connector

    def _connectors(self, organization_id: UUID, addon_key: str) -> dict[str, Connector]:
        snapshot = self._registry.snapshot
        addon = snapshot.addons.get(addon_key)
        if addon is None or addon_key not in snapshot.installed.get(organization_id, {}):
            raise NotFound(f"addon {addon_key[:64]!r} is not installed", code="unknown_addon")
        return {connector.key: connector for connector in addon.manifest.connectors}


def _place(organization_id: UUID, addon_key: str) -> tuple[Any, Any]:
    return _Row.organization_id == organization_id, _Row.addon_key == addon_key
