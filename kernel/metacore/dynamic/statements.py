"""What statements of both databases have in common: the table, its columns, conditions, order, and their parameters.

Parameters have names here; nothing of a request ever becomes part of a statement's text.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType

from metacore.db.database import DialectName
from metacore.db.rls import quoted
from metacore.dynamic.filters import Condition, Operator
from metacore.dynamic.query import ListQuery
from metacore.dynamic.shape import TEXT_KINDS, ColumnShape, Kind, ModelShape
from metacore.dynamic.values import read_value
from metacore.manifest.expressions import parse_expression
from metacore.manifest.model import Relation
from metacore.orm.base import UtcDateTime

ESCAPE = "\\"
KEY = "key"
"""Stands for the key of a parent, which is never null, where only the shape of a statement counts."""
_WILDCARDS = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


class Spelled(UserDefinedType[Any]):
    """A PostgreSQL type exactly as `format_type` spells it."""

    cache_ok = True

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling

    def get_col_spec(self, **_options: Any) -> str:
        return self.spelling


class StoredNumber(sa.TypeDecorator[Any]):
    """A decimal on SQLite, which has none: its numbers are exact to 15 digits."""

    impl = sa.Float
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> float | None:
        return None if value is None else float(value)


def sql_type(column: ColumnShape, dialect: DialectName) -> sa.types.TypeEngine[Any]:
    """The SQLAlchemy type by which `column` is bound, compared and (on SQLite) stored and read."""
    on_sqlite = dialect == "sqlite"
    match column.kind:
        case Kind.STRING:
            return sa.String()
        case Kind.TEXT:
            return sa.Text()
        case Kind.UUID:
            return sa.Uuid(as_uuid=True)
        case Kind.INT:
            return {16: sa.SmallInteger(), 32: sa.Integer()}.get(column.bits, sa.BigInteger())
        case Kind.DECIMAL:
            return StoredNumber() if on_sqlite else sa.Numeric()
        case Kind.FLOAT:
            return sa.Double()
        case Kind.BOOL:
            return sa.Boolean()
        case Kind.INSTANT:
            return UtcDateTime()
        case Kind.CLOCK:
            return UtcDateTime() if on_sqlite else sa.DateTime()
        case Kind.DATE:
            return sa.Date()
        case Kind.JSON:
            return sa.JSON(none_as_null=True) if on_sqlite or column.stored.type == "json" else JSONB()
        case Kind.OTHER:
            return sa.Text() if on_sqlite else Spelled(column.stored.type)


def table_of(shape: ModelShape, schema: str, dialect: DialectName) -> sa.TableClause:
    """The model's table in `schema` ('' for the search path)."""
    return sa.table(
        shape.model.table_name,
        *(sa.column(column.name, sql_type(column, dialect)) for column in shape.columns.values()),
        schema=schema or None,
    )


def visible(shape: ModelShape, columns: Any) -> list[sa.ColumnElement[bool]]:
    """Soft-deleted rows do not exist."""
    return [columns.deleted_at.is_(None)] if shape.hides_deleted else []


def filtered(shape: ModelShape, columns: Any, query: ListQuery, dialect: DialectName) -> list[sa.ColumnElement[bool]]:
    """The conditions of the filters and the search; `filter_values` has their parameters."""
    conditions = [
        _condition(shape.columns[condition.column], columns[condition.column], condition, f"f{index}", dialect)
        for index, condition in enumerate(query.filters)
    ]
    if query.search:
        term = sa.bindparam("search", type_=sa.Text())
        conditions.append(
            sa.or_(*(_as_text(column, columns[column.name]).ilike(term, escape=ESCAPE) for column in shape.search))
        )
    return conditions


def filter_values(shape: ModelShape, query: ListQuery, dialect: DialectName) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for index, condition in enumerate(query.filters):
        if condition.operator is Operator.NULL:
            continue
        if condition.operator is Operator.ILIKE:
            values[f"f{index}"] = contains(condition.value)
        elif condition.operator is Operator.IN:
            column = shape.columns[condition.column]
            values[f"f{index}"] = [bound(column, value, dialect) for value in condition.value]
        else:
            values[f"f{index}"] = bound(shape.columns[condition.column], condition.value, dialect)
    if query.search:
        values["search"] = contains(query.search)
    if query.cursor is not None:
        values["cursor_id"] = query.cursor.row_id
        if query.cursor.value is not None:
            values["cursor_value"] = bound(shape.columns[query.sort], query.cursor.value, dialect)
    return values


def filter_shape(query: ListQuery) -> tuple[Any, ...]:
    """What of the filters changes the statement's text."""
    return tuple((condition.column, condition.operator) for condition in query.filters)


def aggregates(shape: ModelShape, columns: Any, relation: Relation, alias: str) -> list[sa.ColumnElement[Any]]:
    """The rollups of `relation` over rows of `shape`, each under its target. A sum over no rows is 0."""
    found: list[sa.ColumnElement[Any]] = []
    for rollup in relation.rollups:
        value: sa.ColumnElement[Any] | None = columns[rollup.source] if rollup.source else None
        if rollup.expr:
            expression = parse_expression(rollup.expr, shape.columns.keys(), comparison=False)
            value = sa.literal_column(expression.to_sql(lambda name: f"{alias}.{quoted(name)}"))
        if value is None:
            total: sa.ColumnElement[Any] = sa.func.count()
        elif rollup.fn == "sum":
            total = sa.func.coalesce(sa.func.sum(value), sa.literal_column("0"))
        else:
            total = getattr(sa.func, rollup.fn)(value)
        found.append(total.label(rollup.target))
    return found


def children(shape: ModelShape, columns: Any, relation: Relation, dialect: DialectName) -> list[sa.ColumnElement[bool]]:
    """The conditions of the rows that a parent has by `relation`; `children_values` has their parameters."""
    conditions: list[sa.ColumnElement[bool]] = []
    for name, value in {relation.foreign_key: KEY, **relation.scope}.items():
        parameter = sa.bindparam(f"k_{name}", type_=sql_type(shape.columns[name], dialect))
        conditions.append(columns[name].is_(None) if value is None else columns[name] == parameter)
    return conditions


def children_values(shape: ModelShape, relation: Relation, key: Any, dialect: DialectName) -> dict[str, Any]:
    return {
        f"k_{name}": bound(shape.columns[name], read_value(shape.columns[name], value), dialect)
        for name, value in {relation.foreign_key: key, **relation.scope}.items()
        if value is not None
    }


def after_cursor(
    shape: ModelShape, columns: Any, query: ListQuery, dialect: DialectName
) -> list[sa.ColumnElement[bool]]:
    """Rows beyond the cursor. Nulls stand last when the order goes up and first when it goes down, as by default in
    PostgreSQL; a column that cannot be null gives one row comparison, which an index answers."""
    if query.cursor is None:
        return []
    row_id = sa.bindparam("cursor_id", type_=sa.Uuid(as_uuid=True))
    if query.sort == "id":
        return [columns.id < row_id if query.descending else columns.id > row_id]
    stored = columns[query.sort]
    later_id = columns.id < row_id if query.descending else columns.id > row_id
    if query.cursor.value is None:
        same = sa.and_(stored.is_(None), later_id)
        return [sa.or_(same, stored.is_not(None)) if query.descending else same]
    here = sa.tuple_(stored, columns.id)
    there = sa.tuple_(sa.bindparam("cursor_value", type_=sql_type(shape.columns[query.sort], dialect)), row_id)
    if query.descending:
        return [here < there]
    if not shape.columns[query.sort].stored.nullable:
        return [here > there]
    return [sa.or_(here > there, stored.is_(None))]


def order_of(shape: ModelShape, columns: Any, query: ListQuery, dialect: DialectName) -> list[sa.ColumnElement[Any]]:
    def directed(name: str) -> sa.ColumnElement[Any]:
        ordered: sa.UnaryExpression[Any] = columns[name].desc() if query.descending else columns[name].asc()
        if dialect == "sqlite" and shape.columns[name].stored.nullable:
            return ordered.nulls_first() if query.descending else ordered.nulls_last()
        return ordered

    return [directed(name) for name in dict.fromkeys((query.sort, "id"))]


def contains(term: str) -> str:
    """A LIKE pattern that finds `term` anywhere; wildcards in it are ordinary characters."""
    return f"%{term.translate(_WILDCARDS)}%"


def bound(column: ColumnShape, value: Any, dialect: DialectName) -> Any:
    """`value` as the driver wants it: asyncpg takes a timestamp without time zone without one."""
    if column.kind is Kind.CLOCK and dialect == "postgresql":
        return value.replace(tzinfo=None)
    return value


def _condition(
    column: ColumnShape, stored: sa.ColumnElement[Any], condition: Condition, name: str, dialect: DialectName
) -> sa.ColumnElement[bool]:
    kind = sql_type(column, dialect)
    if column.kind is Kind.OTHER:
        stored, kind = sa.cast(stored, sa.Text), sa.Text()
    value = sa.bindparam(name, type_=kind)
    match condition.operator:
        case Operator.NULL:
            return stored.is_(None)
        case Operator.EQ:
            return stored == value
        case Operator.GTE:
            return stored >= value
        case Operator.LTE:
            return stored <= value
        case Operator.LT:
            return stored < value
        case Operator.IN if dialect == "postgresql":
            return stored == sa.any_(sa.bindparam(name, type_=ARRAY(kind)))
        case Operator.IN:
            return stored.in_(sa.bindparam(name, type_=kind, expanding=True))
        case Operator.ILIKE:
            return _as_text(column, stored).ilike(sa.bindparam(name, type_=sa.Text()), escape=ESCAPE)


def _as_text(column: ColumnShape, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return stored if column.kind in TEXT_KINDS else sa.cast(stored, sa.Text)
