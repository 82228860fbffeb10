"""What PostgreSQL would not store, in the words of the API: which rule, which column, never a value of a row."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from metacore.db.faults import LOST, NOT_NOW, busy
from metacore.dynamic.shape import Kind, ModelShape
from metacore.errors import Conflict, InvalidInput, MetacoreError, Problem, Refused, Unavailable

STALE_SHAPE = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)

MAX_NAMED = 10
MALFORMED = frozenset({"22007", "22008", "22023", "22P02"})
"""States of text that is no value of its type: a time of another form or beyond reach, a parameter, anything else."""

# Under row-level security PostgreSQL withholds the columns of a violated constraint, so they come from the catalog.
CONSTRAINED_COLUMNS = """
SELECT coalesce(
    (SELECT array_agg(a.attname::text ORDER BY k.position)
       FROM pg_catalog.pg_constraint c
       JOIN pg_catalog.pg_class t ON t.oid = c.conrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
      CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k(number, position)
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number
      WHERE n.nspname = $1 AND t.relname = $2 AND c.conname = $3),
    (SELECT array_agg(a.attname::text ORDER BY k.position)
       FROM pg_catalog.pg_index i
       JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
      CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, position)
       JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
      WHERE n.nspname = $1 AND x.relname = $3))
"""


async def explained(
    error: asyncpg.PostgresError, shape: ModelShape, pool: asyncpg.Pool[asyncpg.Record]
) -> MetacoreError | None:
    """The error to raise for `error`; None when it is nobody's fault but ours."""
    match error:
        case asyncpg.UniqueViolationError() | asyncpg.ExclusionViolationError():
            columns = await _columns(error, shape, pool)
            return Conflict(
                f"another row has the same {' and '.join(columns) or 'value'}",
                code="duplicate",
                problems=[Problem(column, "unique", "is taken by another row") for column in columns],
            )
        case asyncpg.NotNullViolationError():
            return _refused("validation", [error.column_name or ""], "required", "is required")
        case asyncpg.ForeignKeyViolationError() | asyncpg.RestrictViolationError():
            if error.table_name != shape.model.table_name:
                return Refused("other rows refer to this one", code="referenced")
            return _refused(
                "validation", await _columns(error, shape, pool), "reference", "names a row that is not there"
            )
        case asyncpg.CheckViolationError():
            return _refused(
                "validation", await _columns(error, shape, pool), "constraint", "breaks a rule of the table"
            )
        case asyncpg.DataError():
            return _unfit(error, shape)
        case asyncpg.RaiseError():
            # A trigger of the addon said no; its words are meant for whoever saves.
            return Refused(error.message or "the database refused the change", code="refused")
        case asyncpg.TransactionRollbackError():
            return Conflict("the row is being changed by others; try again", code="contention")
        case _ if isinstance(error, STALE_SHAPE):
            return Unavailable("the model is being changed; try again", code="model_changing")
        case _ if isinstance(error, NOT_NOW):
            return busy()
    return None


def _unfit(error: asyncpg.DataError, shape: ModelShape) -> InvalidInput:
    """PostgreSQL names the type, or the key in a hint, or neither. Values of the types that we know never get here."""
    told = " ".join(part for part in (error.message, error.hint, error.detail) if part)
    unknown = [column for column in shape.readable if column.kind is Kind.OTHER and error.sqlstate in MALFORMED]
    meant = [column for column in unknown if f'key "{column.name}"' in told]
    meant = meant or [column for column in unknown if _names_type(told, column.stored.type)] or unknown
    if not meant:
        return InvalidInput("a value does not fit its column", code="invalid_input")
    wanted = " or ".join(f"{column.name} ({column.stored.type})" for column in meant[:MAX_NAMED])
    return InvalidInput(
        f"{wanted}: the value does not fit",
        code="invalid_input",
        problems=[Problem(column.name, "type", f"expected a value of type {column.stored.type}") for column in meant]
        if len(meant) == 1
        else (),
    )


def _names_type(told: str, stored_type: str) -> bool:
    if stored_type.endswith("[]"):
        return "array literal" in told
    return f"type {stored_type.removesuffix(' without time zone')}:" in told


def _refused(code: str, columns: Sequence[str], problem: str, message: str) -> Refused:
    named = " and ".join(column for column in columns if column)
    return Refused(
        f"{named or 'the row'} {message}",
        code=code,
        problems=[Problem(column, problem, message) for column in columns if column],
    )


async def _columns(error: asyncpg.PostgresError, shape: ModelShape, pool: asyncpg.Pool[asyncpg.Record]) -> list[str]:
    """The columns of the violated constraint or unique index, without the organization's; [] when unknown."""
    place = (error.schema_name or "", error.table_name or "", error.constraint_name or "")
    known: tuple[str, ...] | None = shape.recall(("columns", *place))
    if known is None:
        try:
            found = await pool.fetchval(CONSTRAINED_COLUMNS, *place)
        except (*LOST, asyncpg.PostgresError):
            return []
        known = shape.remember(("columns", *place), tuple(found or ()))
    return [column for column in known or () if column != "organization_id"]
