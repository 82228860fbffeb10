"""Rows that an addon brings: each organization has them once, found by a key column."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.rls import quoted
from metacore.installer.column_types import sqlalchemy_type
from metacore.installer.ddl import KERNEL_COLUMNS, Place
from metacore.installer.steps import SeedRows
from metacore.manifest.model import Column, ColumnType


async def sow(connection: AsyncConnection, schema: str, seed: SeedRows) -> int:
    """Add the rows that are not there, in the transaction of `connection`. Returns how many.

    A row whose key is there already stays as it is, also when it was deleted softly.
    """
    if schema:
        return await _sow_postgres(connection, Place(schema, seed.table), seed)
    return await _sow_sqlite(connection, seed)


async def _sow_postgres(connection: AsyncConnection, place: Place, seed: SeedRows) -> int:
    """PostgreSQL itself reads the values, by the types that the table really has."""
    sown = 0
    key = quoted(seed.key)
    for row in seed.rows:
        names = [quoted(name) for name in row if name not in KERNEL_COLUMNS]
        columns, values = ", ".join(names), ", ".join(f"r.{name}" for name in names)
        same = f"x.{key} = r.{key}"
        if seed.organization_id is not None:
            columns, values = f"organization_id, {columns}", f"$2::uuid, {values}"
            same += " AND x.organization_id = $2::uuid"
        statement = (
            f"INSERT INTO {place.sql} ({columns}) SELECT {values} "  # noqa: S608 - quoted names only.
            f"FROM jsonb_populate_record(NULL::{place.sql}, $1::text::jsonb) AS r "
            f"WHERE NOT EXISTS (SELECT FROM {place.sql} AS x WHERE {same})"
        )
        given: tuple[Any, ...] = (json.dumps(dict(row)),)
        if seed.organization_id is not None:
            given = (*given, seed.organization_id)
        sown += (await connection.exec_driver_sql(statement, given)).rowcount
    return sown


async def _sow_sqlite(connection: AsyncConnection, seed: SeedRows) -> int:
    declared = {column.name: column for column in seed.columns}
    table = sa.table(
        seed.table,
        sa.column("organization_id", sa.Uuid(as_uuid=True)),
        *(sa.column(column.name, sqlalchemy_type(column)) for column in seed.columns),
    )
    sown = 0
    for row in seed.rows:
        values = _converted(row, declared)
        same = [table.c[seed.key] == values[seed.key]]
        if seed.organization_id is not None:
            values["organization_id"] = seed.organization_id
            same.append(table.c.organization_id == seed.organization_id)
        found = await connection.execute(sa.select(sa.literal(1)).select_from(table).where(*same).limit(1))
        if found.first() is None:
            await connection.execute(sa.insert(table).values(values))
            sown += 1
    return sown


def _converted(row: Mapping[str, Any], columns: Mapping[str, Column]) -> dict[str, Any]:
    return {name: _value(value, columns[name]) for name, value in row.items() if name in columns}


def _value(value: Any, column: Column) -> Any:
    """A JSON value as Python has it for the column's type; the manifest's reader has checked that it is one."""
    if value is None:
        return None
    match column.type:
        case ColumnType.UUID:
            return uuid.UUID(str(value))
        case ColumnType.TIMESTAMP:
            moment = datetime.datetime.fromisoformat(str(value))
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
        case ColumnType.DATE:
            return datetime.date.fromisoformat(str(value))
        case ColumnType.DECIMAL:
            return Decimal(str(value))
        case _:
            return value
