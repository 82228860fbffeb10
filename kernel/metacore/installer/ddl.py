"""Statements that make and widen an addon's tables. Pure: values in, SQL text out.

The text goes through the driver as it is, never through SQLAlchemy's `text()`, which would read a `:name` in a default
as a parameter.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

from metacore.db.grants import addon_grants
from metacore.db.rls import (
    CURRENT_ORGANIZATION,
    NO_ORGANIZATION,
    OWNER_POLICY,
    TENANT_POLICY,
    quoted,
    tenant_policies,
)
from metacore.installer.column_types import POSTGRESQL, SQLITE, spelled, sqlalchemy_type
from metacore.manifest.expressions import parse_expression
from metacore.manifest.model import Column, ColumnType, ModelDefinition

KERNEL_COLUMNS = ("id", "organization_id", "created_by_id", "created_at", "updated_at", "deleted_at")

SQLITE_DEFAULTS = {
    "now()": "CURRENT_TIMESTAMP",
    "current_timestamp": "CURRENT_TIMESTAMP",
    "gen_random_uuid()": (
        "(lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2)"
        " || substr('89ab', 1 + (abs(random()) % 4), 1) || substr(hex(randomblob(2)), 2) || hex(randomblob(6))))"
    ),
}
"""SQLite's words for what PostgreSQL has functions for; ids are 32 hex digits there, as SQLAlchemy stores them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's table is. `schema` is '' on SQLite. `organization` is the one whose schema it is, if any."""

    schema: str
    table: str
    organization: uuid.UUID | None = None

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}" if self.schema else quoted(self.table)

    @property
    def dialect(self) -> Dialect:
        return POSTGRESQL if self.schema else SQLITE

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table


def wanted_columns(model: ModelDefinition, *, scoped: bool) -> tuple[Column, ...]:
    """Every column of a model's table, the kernel's own included. `scoped` is whether rows belong to organizations."""
    first = [Column(name="id", type=ColumnType.UUID, required=True, default="gen_random_uuid()")]
    if scoped:
        first.append(Column(name="organization_id", type=ColumnType.UUID, required=True))
    first.append(Column(name="created_by_id", type=ColumnType.UUID))
    last = [
        Column(name=name, type=ColumnType.TIMESTAMP, required=True, default="now()")
        for name in ("created_at", "updated_at")
    ]
    if model.soft_delete:
        last.append(Column(name="deleted_at", type=ColumnType.TIMESTAMP))
    declared = [column for column in model.columns if column.name not in KERNEL_COLUMNS]
    return (*first, *declared, *last)


def create_table(place: Place, columns: Sequence[Column]) -> str:
    names = [column.name for column in columns]
    table = sa.Table(
        place.table,
        sa.MetaData(),
        *(_column(column, place, names, nullable=not column.required) for column in columns),
        schema=place.schema or None,
    )
    return str(CreateTable(table).compile(dialect=place.dialect)).strip()


def add_column(place: Place, column: Column, names: Sequence[str], *, nullable: bool) -> str:
    """`names` are the columns that a generated one may refer to."""
    made = _column(column, place, names, nullable=nullable, primary=False)
    if not place.schema and made.server_default is not None and column.default in SQLITE_DEFAULTS:
        made.server_default = None  # SQLite adds columns with constant defaults only.
    sa.Table(place.table, sa.MetaData(), made)
    compiler = place.dialect.ddl_compiler(place.dialect, None)  # type: ignore[arg-type]
    return f"ALTER TABLE {place.sql} ADD COLUMN {compiler.get_column_specification(made)}"


def widen_column(place: Place, column: Column) -> str:
    return f"ALTER TABLE {place.sql} ALTER COLUMN {quoted(column.name)} TYPE {spelled(column)}"


def set_not_null(place: Place, name: str) -> str:
    return f"ALTER TABLE {place.sql} ALTER COLUMN {quoted(name)} SET NOT NULL"


def drop_not_null(place: Place, name: str) -> str:
    return f"ALTER TABLE {place.sql} ALTER COLUMN {quoted(name)} DROP NOT NULL"


def set_default(place: Place, column: Column) -> str:
    return f"ALTER TABLE {place.sql} ALTER COLUMN {quoted(column.name)} SET DEFAULT {column.default}"


def change_owner(place: Place, role: str) -> str:
    return f"ALTER TABLE {place.sql} OWNER TO {quoted(role)}"


def protection(place: Place, *, column: str, owner_roles: Sequence[str]) -> list[str]:
    """Row security of a table: by `column`, or for a tenant's own schema without one, by the organization itself."""
    if column:
        return tenant_policies(place.schema, place.table, column=column, owner_roles=owner_roles)
    assert place.organization is not None
    mine = f"{CURRENT_ORGANIZATION} = '{place.organization}'::uuid"
    owners = ", ".join(quoted(role) for role in owner_roles)
    return [
        f"ALTER TABLE {place.sql} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {place.sql} FORCE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS {TENANT_POLICY} ON {place.sql}",
        f"CREATE POLICY {TENANT_POLICY} ON {place.sql} TO PUBLIC USING ({mine}) WITH CHECK ({mine})",
        f"DROP POLICY IF EXISTS {OWNER_POLICY} ON {place.sql}",
        f"CREATE POLICY {OWNER_POLICY} ON {place.sql} TO {owners} "
        f"USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})",
    ]


def grants(place: Place, kernel_role: str) -> list[str]:
    return addon_grants(place.schema, place.table, kernel_role) if kernel_role else []


def _column(
    column: Column, place: Place, names: Sequence[str], *, nullable: bool, primary: bool = True
) -> sa.Column[Any]:
    default: sa.ColumnClause[Any] | None = None
    if column.default is not None and not column.generated:
        text = column.default if place.schema else SQLITE_DEFAULTS.get(column.default, column.default)
        default = sa.literal_column(text)
    computed = []
    if column.generated:
        expression = parse_expression(column.generated, names, comparison=False)
        computed.append(sa.Computed(sa.literal_column(expression.to_sql(quoted)), persisted=bool(place.schema)))
    return sa.Column(
        column.name,
        sqlalchemy_type(column),
        *computed,
        nullable=nullable or bool(computed),
        primary_key=primary and column.name == "id",
        server_default=default,
    )
