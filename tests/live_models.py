"""Live models as the installer and the loader would make them: a real table, and what the registry holds of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from metacore.db.catalog import StoredColumn
from metacore.db.database import Database
from metacore.db.grants import addon_grants
from metacore.db.rls import tenant_policies
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE
from metacore.dynamic.shape import shape_of
from metacore.dynamic.statements import sql_type
from metacore.ids import new_uuid
from metacore.manifest.model import (
    Capability,
    Column,
    ColumnType,
    ColumnValidation,
    Constraint,
    Formula,
    Isolation,
    Manifest,
    ModelDefinition,
    OnTransition,
    Option,
    Transition,
)
from metacore.metadata.derive import derive_modal, derive_table
from metacore.registry import Installed, LiveAddon, LiveModel, Registry

ADDON_KEY = "desk"

TYPES: Mapping[ColumnType, str] = {
    ColumnType.TEXT: "text",
    ColumnType.UUID: "uuid",
    ColumnType.INT: "integer",
    ColumnType.BIGINT: "bigint",
    ColumnType.DECIMAL: "numeric(18,4)",
    ColumnType.BOOL: "boolean",
    ColumnType.TIMESTAMP: "timestamp with time zone",
    ColumnType.DATE: "date",
    ColumnType.JSONB: "jsonb",
}

TICKET = ModelDefinition(
    key="Ticket",
    table="tickets",
    label="Ticket",
    soft_delete=True,
    columns=(
        Column(name="title", type=ColumnType.STRING, size=80, required=True, searchable=True),
        Column(name="body", type=ColumnType.TEXT, searchable=True),
        Column(name="code", type=ColumnType.STRING, size=16, validation=ColumnValidation(regex="^[A-Z]{2}-[0-9]+$")),
        Column(name="status", type=ColumnType.STRING, size=16, required=True, default="'open'"),
        Column(
            name="kind",
            type=ColumnType.STRING,
            size=16,
            widget="select",
            options=(Option(value="bug", label="Bug"), Option(value="wish", label="Wish")),
        ),
        Column(name="priority", type=ColumnType.INT, default="1", validation=ColumnValidation(min=0, max=9)),
        Column(name="visits", type=ColumnType.BIGINT),
        Column(name="price", type=ColumnType.DECIMAL, constraints=(Constraint(expr="price >= 0", error_key="price"),)),
        Column(name="quantity", type=ColumnType.INT, default="1"),
        Column(name="total", type=ColumnType.DECIMAL),
        Column(name="urgent", type=ColumnType.BOOL, required=True, default="false"),
        Column(name="due", type=ColumnType.DATE),
        Column(name="closed_at", type=ColumnType.TIMESTAMP, readonly=True),
        Column(name="seen_at", type=ColumnType.TIMESTAMP),
        Column(name="meta", type=ColumnType.JSONB),
        Column(name="owner_ref", type=ColumnType.UUID),
        Column(name="pin", type=ColumnType.STRING, size=32, widget="password"),
        Column(name="taxcode", type=ColumnType.STRING, size=32, validation=ColumnValidation(custom="$org.taxcode")),
    ),
    formulas=(Formula(target="total", expr="price * quantity"),),
    stage_field="status",
    stages=("open", "waiting", "closed"),
    transitions=(
        Transition(source="open", target="waiting"),
        Transition(source="open", target="closed"),
        Transition(source="waiting", target="open"),
        Transition(source="waiting", target="closed"),
    ),
    on_transition=(OnTransition(target="closed", set={"closed_at": "now()"}),),
)
"""Every type of the contract, stages, a formula, a constraint, a secret column, an organization's validator."""

OVERRIDES: Mapping[str, str] = {"seen_at": "timestamp without time zone"}
"""As a migration of the addon's own may have made it."""


def stored_columns(definition: ModelDefinition, overrides: Mapping[str, str] = OVERRIDES) -> dict[str, StoredColumn]:
    """The table that the installer makes for `definition`, as the catalog reads it."""
    columns = [
        StoredColumn("id", "uuid", nullable=False, default="gen_random_uuid()"),
        StoredColumn("organization_id", "uuid", nullable=False),
    ]
    for column in definition.columns:
        spelled = overrides.get(column.name) or TYPES.get(column.type) or f"character varying({column.size or 255})"
        columns.append(StoredColumn(column.name, spelled, nullable=not column.required, default=column.default))
    instant = "timestamp with time zone"
    columns.append(StoredColumn("created_by_id", "uuid"))
    columns += [StoredColumn(name, instant, nullable=False, default="now()") for name in ("created_at", "updated_at")]
    if definition.soft_delete:
        columns.append(StoredColumn("deleted_at", instant))
    return {column.name: column for column in columns}


def live_model(
    definition: ModelDefinition = TICKET,
    *,
    schema: str = "",
    overrides: Mapping[str, str] = OVERRIDES,
    isolation: Isolation = Isolation.SHARED,
) -> LiveModel:
    return LiveModel(
        key=definition.key,
        addon_key=ADDON_KEY,
        definition=definition,
        table_name=definition.table,
        schema=schema,
        isolation=isolation,
        stored=stored_columns(definition, overrides),
        table=derive_table(definition),
        modal=derive_modal(definition),
        revision=1,
    )


@dataclass
class Desk:
    """An installed addon: `serving` is the kernel's database, `owner` the one that may do DDL (both one on SQLite)."""

    serving: Database
    owner: Database
    registry: Registry = field(default_factory=Registry)
    models: dict[str, LiveModel] = field(default_factory=dict)
    organizations: set[uuid.UUID] = field(default_factory=set)

    async def add(
        self,
        definition: ModelDefinition = TICKET,
        *,
        unique: Iterable[str] = (),
        overrides: Mapping[str, str] = OVERRIDES,
        constraints: Iterable[str] = (),
        isolation: Isolation = Isolation.SHARED,
        tenants: Iterable[uuid.UUID] = (),
    ) -> LiveModel:
        """Make the table (one per tenant with schema-per-tenant), and serve the model."""
        on_postgres = self.owner.dialect == "postgresql"
        model = live_model(
            definition, schema=f"addon_{ADDON_KEY}" if on_postgres else "", overrides=overrides, isolation=isolation
        )
        schemas = [model.schema_of(tenant) for tenant in tenants] or [model.schema]
        async with self.owner.engine.begin() as connection:
            for schema in schemas:
                for statement in _ddl(model, schema, list(unique), list(constraints), on_postgres):
                    await connection.exec_driver_sql(statement)
        self.models[model.key] = model
        self._publish()
        return model

    def install_for(self, *organizations: uuid.UUID) -> None:
        self.organizations |= set(organizations)
        self._publish()

    async def events(self) -> list[dict[str, Any]]:
        """Every event of every organization, oldest first."""
        statement = sa.text(
            "SELECT organization_id, addon_key, event_type, data, actor_id FROM metacore_events ORDER BY id"
        )
        async with self.owner.engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    def _publish(self) -> None:
        addon = LiveAddon(
            key=ADDON_KEY,
            version="1.0.0",
            digest="0" * 64,
            manifest=Manifest(api="v3", key=ADDON_KEY, name="Desk", version="1.0.0"),
            grants=(Capability(kind="model", target="*"),),
            models=dict(self.models),
        )
        installed = {
            organization: {ADDON_KEY: Installed(new_uuid(), ADDON_KEY, "1.0.0", enabled=True)}
            for organization in self.organizations
        }
        self.registry.replace(self.registry.snapshot.revision + 1, {ADDON_KEY: addon}, installed)


def _ddl(model: LiveModel, schema: str, unique: list[str], constraints: list[str], on_postgres: bool) -> list[str]:
    target = f'"{schema}"."{model.table_name}"' if schema else f'"{model.table_name}"'
    columns = [_column_ddl(model, name, on_postgres) for name in model.stored]
    table = f"CREATE TABLE {target} ({', '.join([*columns, *constraints])})"
    indexes = [
        f"CREATE UNIQUE INDEX {model.table_name}_{name}_key ON {target} (organization_id, {name})" for name in unique
    ]
    if not on_postgres:
        return [table, *indexes]
    return [
        f'CREATE SCHEMA IF NOT EXISTS "{schema}"',
        table,
        *indexes,
        *tenant_policies(schema, model.table_name, owner_roles=[OWNER_ROLE]),
        *addon_grants(schema, model.table_name, KERNEL_ROLE),
    ]


def _column_ddl(model: LiveModel, name: str, on_postgres: bool) -> str:
    stored = model.stored[name]
    column = shape_of(model).columns[name]
    if on_postgres:
        kind = stored.type
    else:
        kind = sql_type(column, "sqlite").compile(dialect=sa.create_mock_engine("sqlite://", print).dialect)
    parts = [f'"{name}" {kind}']
    if name == "id":
        parts.append("PRIMARY KEY")
    if not stored.nullable:
        parts.append("NOT NULL")
    default = stored.default
    if default is not None and (on_postgres or "(" not in default):
        parts.append(f"DEFAULT {default}")
    return " ".join(parts)
