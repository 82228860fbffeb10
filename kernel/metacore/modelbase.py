"""Models that a host registers in code: SQLAlchemy classes over `Model`, or plain definitions of an existing table.

Both become the same `LiveModel` that an addon's model is, so everything above serves them alike. They belong to the
addon key `kernel`.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from metacore.db.catalog import StoredColumn, read_schema
from metacore.db.database import Database
from metacore.db.rls import tenant_policies
from metacore.errors import Misconfigured
from metacore.ids import KERNEL_ADDON_KEY
from metacore.manifest.model import Column, ColumnType, Isolation, ModelDefinition
from metacore.metadata.derive import derive_modal, derive_table
from metacore.metadata.model import ModalMetadata, TableMetadata
from metacore.orm.base import JSON_DOCUMENT, NAMING, UtcDateTime
from metacore.registry import LiveModel

HOST_SCHEMA = "public"
KERNEL_COLUMNS = frozenset({"id", "organization_id", "created_by_id", "created_at", "updated_at", "deleted_at"})


class Model(DeclarativeBase):
    """Base of a host's models: subclass it, name a `__tablename__`, add columns.

    Every subclass has id, organization_id, created_by_id, created_at and updated_at. A `deleted_at` column of its own
    makes deletes soft. `define_table` and `define_modal` may be overridden; else both are derived from the columns.
    """

    metadata = sa.MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain mapping.
        uuid.UUID: sa.Uuid(as_uuid=True),
        datetime.datetime: UtcDateTime(),
        Decimal: sa.Numeric(18, 4),
        dict[str, Any]: JSON_DOCUMENT,
        list[Any]: JSON_DOCUMENT,
    }

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4, sort_order=-3)
    organization_id: Mapped[uuid.UUID] = mapped_column(index=True, sort_order=-2)
    created_by_id: Mapped[uuid.UUID | None] = mapped_column(sort_order=-1)
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp(), sort_order=900)
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=func.current_timestamp(), sort_order=901)


@runtime_checkable
class Definition(Protocol):
    """A model described in code. `table_name` names a table that exists when the App starts."""

    table_name: str

    def define_table(self) -> TableMetadata | Mapping[str, Any]: ...

    def define_modal(self) -> ModalMetadata | Mapping[str, Any]: ...


Factory = Callable[[], Definition | type[Model]]


async def load_host_model(database: Database, key: str, factory: Factory) -> LiveModel:
    """Ask `factory` for a fresh definition and read the table that it names.

    Raises:
        Misconfigured: neither a `Model` class nor a definition came, or the table or a column that it needs is missing.
    """
    made = factory()
    if isinstance(made, type) and issubclass(made, Model):
        table = made.__table__
        assert isinstance(table, sa.Table)
        definition = definition_of(key, table)
        definition = _with_metadata(definition, made)
    elif isinstance(made, Definition):
        definition = _with_metadata(
            ModelDefinition(key=key, table=made.table_name, declared=False, soft_delete=False), made
        )
    else:
        raise Misconfigured(
            f"model {key!r}: the factory gave {type(made).__name__}; give a class over metacore.Model or an object with"
            " table_name, define_table() and define_modal()"
        )
    stored = await _stored_columns(database, definition.table)
    if not stored:
        raise Misconfigured(f"model {key!r}: the database has no table {definition.table!r}")
    if missing := {"id", "organization_id"} - stored.keys():
        raise Misconfigured(f"model {key!r}: table {definition.table!r} lacks the column {', '.join(sorted(missing))}")
    if not definition.declared:
        columns = tuple(column_of(column) for name, column in stored.items() if name not in KERNEL_COLUMNS)
        definition = definition.model_copy(update={"columns": columns, "soft_delete": "deleted_at" in stored})
    definition = _required_as_stored(definition, stored)
    return LiveModel(
        key=key,
        addon_key=KERNEL_ADDON_KEY,
        definition=definition,
        table_name=definition.table,
        schema=HOST_SCHEMA if database.dialect == "postgresql" else "",
        isolation=Isolation.SHARED,
        stored=stored,
        table=derive_table(definition),
        modal=derive_modal(definition),
        revision=1,
    )


def _required_as_stored(definition: ModelDefinition, stored: Mapping[str, StoredColumn]) -> ModelDefinition:
    """A value must be given where the table neither takes null nor has a default, whatever the class says."""

    def needed(column: Column) -> bool:
        found = stored.get(column.name)
        return found is not None and not found.nullable and found.default is None and not found.generated

    columns = tuple(column.model_copy(update={"required": needed(column)}) for column in definition.columns)
    return definition.model_copy(update={"columns": columns})


def definition_of(key: str, table: sa.Table) -> ModelDefinition:
    """The internal model of a SQLAlchemy table; the kernel's own columns are left out, as everywhere."""
    columns = tuple(_declared(column) for column in table.columns if column.name not in KERNEL_COLUMNS)
    return ModelDefinition(
        key=key,
        table=table.name,
        label=key.replace("_", " ").title(),
        soft_delete="deleted_at" in table.columns,
        columns=columns,
    )


def column_of(stored: StoredColumn) -> Column:
    """A column as it can be known from the database alone."""
    return Column(
        name=stored.name,
        type=type_of(stored.type),
        label=stored.name.replace("_", " ").capitalize(),
        required=not stored.nullable and stored.default is None and not stored.generated,
        default=None,
        readonly=stored.generated,
    )


def type_of(stored_type: str) -> ColumnType:
    """The canonical type of PostgreSQL's spelling of a type; text for whatever the contract has no word for."""
    base = stored_type.split("(")[0].strip().lower()
    return STORED_TYPES.get(base, ColumnType.TEXT)


STORED_TYPES: Mapping[str, ColumnType] = {
    "character varying": ColumnType.STRING,
    "varchar": ColumnType.STRING,
    "character": ColumnType.STRING,
    "text": ColumnType.TEXT,
    "uuid": ColumnType.UUID,
    "char": ColumnType.UUID,
    "smallint": ColumnType.INT,
    "integer": ColumnType.INT,
    "bigint": ColumnType.BIGINT,
    "numeric": ColumnType.DECIMAL,
    "decimal": ColumnType.DECIMAL,
    "real": ColumnType.DECIMAL,
    "float": ColumnType.DECIMAL,
    "double precision": ColumnType.DECIMAL,
    "boolean": ColumnType.BOOL,
    "timestamp": ColumnType.TIMESTAMP,
    "datetime": ColumnType.TIMESTAMP,
    "timestamp with time zone": ColumnType.TIMESTAMP,
    "timestamp without time zone": ColumnType.TIMESTAMP,
    "date": ColumnType.DATE,
    "json": ColumnType.JSONB,
    "jsonb": ColumnType.JSONB,
}


def _declared(column: sa.Column[Any]) -> Column:
    kind = _column_type(column.type)
    reference = next(iter(column.foreign_keys), None)
    return Column(
        name=column.name,
        type=kind,
        size=getattr(column.type, "length", None) if kind is ColumnType.STRING else None,
        label=str(column.info.get("label", column.name.replace("_", " ").capitalize())),
        required=not column.nullable and column.default is None and column.server_default is None,
        unique=bool(column.unique),
        index=bool(column.index),
        ref=reference.target_fullname.split(".")[0] if reference is not None else "",
        searchable=bool(column.info.get("searchable", kind in (ColumnType.STRING, ColumnType.TEXT))),
        widget=str(column.info.get("widget", "")),
        generated=str(column.computed.sqltext) if column.computed is not None else "",
    )


def _column_type(kind: sa.types.TypeEngine[Any]) -> ColumnType:
    kinds: tuple[tuple[type[Any], ColumnType], ...] = (
        (sa.Text, ColumnType.TEXT),
        (sa.String, ColumnType.STRING),
        (sa.Uuid, ColumnType.UUID),
        (sa.BigInteger, ColumnType.BIGINT),
        (sa.Integer, ColumnType.INT),
        (sa.Numeric, ColumnType.DECIMAL),
        (sa.Boolean, ColumnType.BOOL),
        (UtcDateTime, ColumnType.TIMESTAMP),
        (sa.DateTime, ColumnType.TIMESTAMP),
        (sa.Date, ColumnType.DATE),
        (sa.JSON, ColumnType.JSONB),
    )
    for known, canonical in kinds:
        if isinstance(kind, known):
            return canonical
    raise Misconfigured(f"column type {kind!r} has no counterpart in the contract's column types")


def _with_metadata(definition: ModelDefinition, made: Definition | type[Model]) -> ModelDefinition:
    """`define_table` and `define_modal` of `made`, where it has them, as the declared metadata."""
    target = made() if isinstance(made, type) else made
    update: dict[str, Any] = {}
    for name, field in (("define_table", "table_metadata"), ("define_modal", "modal_metadata")):
        define = getattr(target, name, None)
        if define is not None:
            shape = define()
            update[field] = (
                shape.model_dump(by_alias=True, exclude_unset=True)
                if isinstance(shape, TableMetadata | ModalMetadata)
                else dict(shape)
            )
    return definition.model_copy(update=update)


async def _stored_columns(database: Database, table: str) -> Mapping[str, StoredColumn]:
    if database.dialect == "postgresql":
        async with database.postgres.acquire() as connection:
            found = (await read_schema(connection, HOST_SCHEMA)).get(table)
        return found.columns if found is not None else {}

    def reflect(connection: sa.Connection) -> dict[str, StoredColumn]:
        inspector = sa.inspect(connection)
        if not inspector.has_table(table):
            return {}
        return {
            column["name"]: StoredColumn(
                column["name"], str(column["type"]).lower(), bool(column["nullable"]), column.get("default")
            )
            for column in inspector.get_columns(table)
        }

    async with database.engine.connect() as engine_connection:
        return await engine_connection.run_sync(reflect)


async def create_host_tables(database: Database, models: Mapping[str, Factory]) -> list[str]:
    """Make the missing tables of registered `Model` classes, with forced row-level security on PostgreSQL.

    Tables that exist are left as they are: changing them is the host's own migration. Returns the names made.
    """
    tables = [
        made.__table__
        for factory in models.values()
        if isinstance(made := factory(), type) and issubclass(made, Model) and isinstance(made.__table__, sa.Table)
    ]
    made_names: list[str] = []
    async with database.engine.begin() as connection:
        existing = set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
        missing = [table for table in tables if table.name not in existing]
        for table in missing:
            _give_defaults_to_the_database(table)
        if missing:
            await connection.run_sync(lambda sync: Model.metadata.create_all(sync, tables=missing))
        for table in missing:
            made_names.append(table.name)
            if database.dialect == "postgresql":
                owner = (await connection.execute(sa.text("SELECT current_user"))).scalar_one()
                for statement in tenant_policies(HOST_SCHEMA, table.name, owner_roles=[owner]):
                    await connection.execute(sa.text(statement))
    return made_names


def _give_defaults_to_the_database(table: sa.Table) -> None:
    """A plain Python default (`default=0`) becomes the column's default in the table: rows are not made by the ORM."""
    for column in table.columns:
        default = column.default
        if column.server_default is None and isinstance(default, sa.ColumnDefault) and default.is_scalar:
            literal = sa.literal(default.arg, type_=column.type)
            column.server_default = sa.DefaultClause(
                sa.text(str(literal.compile(compile_kwargs={"literal_binds": True})))
            )
