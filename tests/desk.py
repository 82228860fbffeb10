"""A small help desk to read from and write to: customers and tickets of one addon, cities of another."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from tests.factories import principal

from metacore.db.catalog import StoredColumn, read_schema
from metacore.db.database import Database
from metacore.db.grants import addon_grants
from metacore.db.rls import tenant_policies
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType, Isolation, Manifest, ModelDefinition, Option, OptionsSource
from metacore.metadata.derive import derive_modal, derive_table
from metacore.orm.base import JSON_DOCUMENT, UtcDateTime
from metacore.registry import Installed, LiveAddon, LiveModel, Registry

STRING, TEXT, UUID = ColumnType.STRING, ColumnType.TEXT, ColumnType.UUID

CUSTOMERS = ModelDefinition(
    key="Customer",
    table="customers",
    columns=(
        Column(name="name", type=STRING, required=True),
        Column(name="description", type=TEXT),
        Column(name="logo", type=STRING, widget="image"),
        Column(name="api_key", type=STRING, widget="password"),
    ),
)

CITIES = ModelDefinition(
    key="cities",
    table="cities",
    columns=(
        Column(name="code", type=STRING),
        Column(name="title", type=STRING),
        Column(name="country", type=STRING),
        Column(name="population", type=ColumnType.INT),
        Column(name="icon", type=STRING),
        Column(name="color", type=STRING),
    ),
)

TICKETS = ModelDefinition(
    key="tickets",
    table="tickets",
    label="Tickets",
    soft_delete=True,
    columns=(
        Column(name="title", type=STRING, size=200, label="Subject", required=True),
        Column(
            name="status",
            type=STRING,
            default="'open'",
            widget="select",
            options=(
                Option(value="open", label="models.tickets.options.open", color="green", image="/open.png"),
                Option(value="done", label="All done", icon="check"),
            ),
        ),
        Column(name="priority", type=STRING),
        Column(name="amount", type=ColumnType.DECIMAL),
        Column(name="count", type=ColumnType.INT),
        Column(name="urgent", type=ColumnType.BOOL),
        Column(name="due", type=ColumnType.DATE),
        Column(name="opened_at", type=ColumnType.TIMESTAMP),
        Column(name="customer_id", type=UUID, ref="Customer"),
        Column(name="country", type=STRING),
        Column(
            name="city",
            type=STRING,
            options_source=OptionsSource(source="cities", filter_by="country", value="code", label="title"),
        ),
        Column(name="currency", type=STRING, options_provider="currencies"),
        Column(name="token", type=STRING, widget="password"),
        Column(name="note", type=TEXT, visibility="modal"),
        Column(name="data", type=ColumnType.JSONB),
    ),
)

ADDONS: Mapping[str, tuple[ModelDefinition, ...]] = {"desk": (CUSTOMERS, TICKETS), "geo": (CITIES,)}

SQL_TYPES: Mapping[ColumnType, sa.types.TypeEngine[Any]] = {
    ColumnType.STRING: sa.String(255),
    ColumnType.TEXT: sa.Text(),
    ColumnType.UUID: sa.Uuid(as_uuid=True),
    ColumnType.INT: sa.Integer(),
    ColumnType.BIGINT: sa.BigInteger(),
    ColumnType.DECIMAL: sa.Numeric(18, 4).with_variant(sa.Float(), "sqlite"),
    ColumnType.BOOL: sa.Boolean(),
    ColumnType.TIMESTAMP: UtcDateTime(),
    ColumnType.DATE: sa.Date(),
    ColumnType.JSONB: JSON_DOCUMENT,
}


@dataclass
class Desk:
    """`db` is the kernel's database, `writer` one that may write for every organization. ACME has both addons."""

    db: Database
    writer: Database
    registry: Registry
    tables: Mapping[str, sa.Table]
    acme: uuid.UUID
    globex: uuid.UUID

    async def add(self, key: str, organization_id: uuid.UUID | None = None, **values: Any) -> uuid.UUID:
        """Insert one row of a model for ACME, or another organization; its id."""
        row_id = uuid.uuid4()
        organization_id = organization_id or self.acme
        async with self.writer.transaction(organization_id) as connection:
            row = {"id": row_id, "organization_id": organization_id, **values}
            await connection.execute(sa.insert(self.tables[key]), row)
        return row_id

    async def count(self, key: str) -> int:
        """Rows of everybody, deleted ones too."""
        async with self.writer.transaction(None) as connection:
            return int(
                (await connection.execute(sa.select(sa.func.count()).select_from(self.tables[key]))).scalar_one()
            )

    def caller(self, organization_id: uuid.UUID | None = None, role: str = "owner") -> Principal:
        return principal(organization_id or self.acme, role=role)

    def install(self, *, acme: tuple[str, ...], globex: tuple[str, ...] = ()) -> None:
        """Say which addons the two organizations have."""
        snapshot = self.registry.snapshot
        installed = {
            organization_id: {key: Installed(uuid.uuid4(), key, "1.0.0", True) for key in keys}
            for organization_id, keys in ((self.acme, acme), (self.globex, globex))
        }
        self.registry.replace(snapshot.revision + 1, snapshot.addons, installed)


async def open_desk(db: Database, writer: Database) -> Desk:
    """Make the tables with `writer`, and serve them from `db`."""
    tables: dict[str, sa.Table] = {}
    addons: dict[str, LiveAddon] = {}
    for addon_key, definitions in ADDONS.items():
        models = {}
        for definition in definitions:
            table = _table(addon_key, definition, db)
            stored = await _create(writer, addon_key, table)
            tables[definition.key] = table
            models[definition.key] = LiveModel(
                key=definition.key,
                addon_key=addon_key,
                definition=definition,
                table_name=table.name,
                schema=table.schema or "",
                isolation=Isolation.SHARED,
                stored=stored,
                table=derive_table(definition),
                modal=derive_modal(definition),
                revision=1,
            )
        manifest = Manifest(api="v3", key=addon_key, name=addon_key, version="1.0.0", models=definitions)
        addons[addon_key] = LiveAddon(key=addon_key, version="1.0.0", digest="", manifest=manifest, models=models)
    registry = Registry()
    registry.replace(1, addons, {})
    desk = Desk(db, writer, registry, tables, uuid.uuid4(), uuid.uuid4())
    desk.install(acme=("desk", "geo"), globex=("desk",))
    return desk


def _table(addon_key: str, definition: ModelDefinition, db: Database) -> sa.Table:
    own = [
        sa.Column("id", sa.Uuid(as_uuid=True), primary_key=True),
        sa.Column("organization_id", sa.Uuid(as_uuid=True), nullable=False),
        sa.Column("created_by_id", sa.Uuid(as_uuid=True)),
        sa.Column("created_at", UtcDateTime(), server_default=sa.func.current_timestamp()),
        sa.Column("updated_at", UtcDateTime(), server_default=sa.func.current_timestamp()),
    ]
    if definition.soft_delete:
        own.append(sa.Column("deleted_at", UtcDateTime()))
    declared = [
        sa.Column(
            column.name,
            SQL_TYPES[column.type],
            nullable=not column.required,
            server_default=sa.text(column.default) if column.default else None,
        )
        for column in definition.columns
    ]
    schema = f"addon_{addon_key}" if db.dialect == "postgresql" else None
    return sa.Table(definition.table, sa.MetaData(), *own, *declared, schema=schema)


async def _create(writer: Database, addon_key: str, table: sa.Table) -> Mapping[str, StoredColumn]:
    async with writer.engine.begin() as connection:
        if table.schema is not None:
            await connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {table.schema}"))
        await connection.run_sync(table.create)
        if table.schema is not None:
            rules = tenant_policies(table.schema, table.name, owner_roles=[OWNER_ROLE])
            for statement in [*rules, *addon_grants(table.schema, table.name, KERNEL_ROLE)]:
                await connection.execute(sa.text(statement))
        else:
            found = await connection.run_sync(lambda sync: sa.inspect(sync).get_columns(table.name))
            return {
                column["name"]: StoredColumn(
                    column["name"], str(column["type"]).lower(), bool(column["nullable"]), column.get("default")
                )
                for column in found
            }
    async with writer.postgres.acquire() as connection:
        return (await read_schema(connection, f"addon_{addon_key}"))[table.name].columns
