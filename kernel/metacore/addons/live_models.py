"""Models of an addon as they can be served: what the manifest declares over what the tables really have."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from metacore.db.catalog import StoredColumn, read_schema
from metacore.db.database import Database
from metacore.errors import MetacoreError
from metacore.installer.names import schema_name, sqlite_table
from metacore.manifest.model import Isolation, Manifest, ModelDefinition
from metacore.metadata.derive import derive_modal, derive_table
from metacore.modelbase import KERNEL_COLUMNS, column_of
from metacore.registry import LiveModel

Tables = Mapping[str, Mapping[str, StoredColumn]]


class ModelReader:
    """Reads tables with the connection that serves them, so what is found is what can be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._revisions = 0

    async def read(
        self, manifest: Manifest, organizations: Sequence[uuid.UUID], before: Mapping[str, LiveModel]
    ) -> dict[str, LiveModel]:
        """Every model of `manifest` by key. A model whose shape is as `before` keeps its revision.

        Raises:
            MetacoreError: a declared table, or a column of it, is not there.
        """
        if not manifest.models:
            return {}
        per_tenant = manifest.isolation is Isolation.SCHEMA_PER_TENANT and self._database.dialect == "postgresql"
        if per_tenant and not organizations:
            return {}
        tables = await self._tables(manifest, organizations[0] if per_tenant else None)
        live = (self._live(manifest, model, tables) for model in manifest.models)
        return {model.key: self._revised(model, before.get(model.key)) for model in live}

    def _live(self, manifest: Manifest, model: ModelDefinition, tables: Tables) -> LiveModel:
        on_postgres = self._database.dialect == "postgresql"
        table = model.table if on_postgres else sqlite_table(manifest.key, model.table)
        stored = tables.get(table)
        if stored is None:
            raise MetacoreError(f"model {model.key!r}: the table {table!r} is not in the database")
        definition = model if model.declared else _listed(model, stored)
        missing = [column.name for column in definition.columns if column.name not in stored]
        if missing:
            raise MetacoreError(f"model {model.key!r}: table {table!r} lacks the column {', '.join(missing)}")
        return LiveModel(
            key=model.key,
            addon_key=manifest.key,
            definition=definition,
            table_name=table,
            schema=schema_name(manifest.key, Isolation.SHARED, None) if on_postgres else "",
            isolation=manifest.isolation if on_postgres else Isolation.SHARED,
            stored=stored,
            table=derive_table(definition, manifest.actions),
            modal=derive_modal(definition, manifest.actions),
            revision=0,
        )

    def _revised(self, model: LiveModel, before: LiveModel | None) -> LiveModel:
        if before is not None and _shape(model) == _shape(before):
            return before
        self._revisions += 1
        return LiveModel(
            key=model.key,
            addon_key=model.addon_key,
            definition=model.definition,
            table_name=model.table_name,
            schema=model.schema,
            isolation=model.isolation,
            stored=model.stored,
            table=model.table,
            modal=model.modal,
            revision=self._revisions,
        )

    async def _tables(self, manifest: Manifest, organization_id: uuid.UUID | None) -> Tables:
        if self._database.dialect == "postgresql":
            async with self._database.postgres.acquire() as connection:
                found = await read_schema(connection, schema_name(manifest.key, manifest.isolation, organization_id))
            return {name: table.columns for name, table in found.items()}
        names = [sqlite_table(manifest.key, model.table) for model in manifest.models]

        def reflect(connection: sa.Connection) -> dict[str, dict[str, StoredColumn]]:
            inspector = sa.inspect(connection)
            return {
                name: {
                    column["name"]: StoredColumn(
                        column["name"], str(column["type"]).lower(), bool(column["nullable"]), column.get("default")
                    )
                    for column in inspector.get_columns(name)
                }
                for name in names
                if inspector.has_table(name)
            }

        async with self._database.engine.connect() as engine_connection:
            return await engine_connection.run_sync(reflect)


def _listed(model: ModelDefinition, stored: Mapping[str, StoredColumn]) -> ModelDefinition:
    """A model that is only listed takes its columns from the table that the migrations made."""
    columns = tuple(column_of(column) for name, column in stored.items() if name not in KERNEL_COLUMNS)
    return model.model_copy(update={"columns": columns, "soft_delete": "deleted_at" in stored})


def _shape(model: LiveModel) -> tuple[object, ...]:
    return (model.definition, model.table_name, model.schema, model.isolation, dict(model.stored))
