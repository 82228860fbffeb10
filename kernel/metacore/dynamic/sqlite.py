"""Rows on SQLite, for programs that embed the kernel: the same answers through SQLAlchemy Core on aiosqlite.

SQLite has one writer at a time, so a change reads, checks and writes under the write lock. There is no row-level
security: the organization stands in every statement. Upper and lower case are one for ASCII letters only in a search.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import StaticPool

from metacore.db.database import Database
from metacore.dynamic import cursor as cursors
from metacore.dynamic import statements as common
from metacore.dynamic.postgres_statements import COUNT_CAP
from metacore.dynamic.query import Count, ListQuery
from metacore.dynamic.rows import Current, SequencePlace, counted_as, exact, list_envelope
from metacore.dynamic.shape import TIME_KINDS, ColumnShape, Kind, ModelShape
from metacore.errors import Conflict, MetacoreError, Problem, Refused, Unavailable
from metacore.events.canonical import Verb
from metacore.identity import Principal
from metacore.manifest.model import Relation
from metacore.orm.events import Event
from metacore.orm.sequences import SequenceCounter

SQLITE: Final = "sqlite"
_EVENTS = cast(sa.Table, Event.__table__)
_SEQUENCES = cast(sa.Table, SequenceCounter.__table__)
_writing: WeakKeyDictionary[Database, asyncio.Lock] = WeakKeyDictionary()
"""One writer at a time per database, however many services work on it."""


@dataclass(slots=True)
class _Writing:
    """A transaction in which several changes are made. What runs on in the background inherits it after its end."""

    db: Database
    connection: AsyncConnection
    open: bool = True


_around: ContextVar[_Writing | None] = ContextVar("metacore_sqlite_writing", default=None)

_FAILED = re.compile(r"(UNIQUE|NOT NULL|CHECK|FOREIGN KEY) constraint failed(?:: (.*))?")


class SqliteRows:
    """`Rows` over `db`, a SQLite database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, shape: ModelShape, principal: Principal, query: ListQuery) -> bytes:
        table = _table(shape, principal)
        conditions = [*_mine(shape, table, principal), *common.filtered(shape, table.c, query, SQLITE)]
        statement = (
            sa.select(*_readable(shape, table))
            .where(*conditions, *common.after_cursor(shape, table.c, query, SQLITE))
            .order_by(*common.order_of(shape, table.c, query, SQLITE))
            .limit(query.per_page)
            .offset(query.offset)
        )
        values = common.filter_values(shape, query, SQLITE)
        async with self._reads(principal) as connection:
            rows = [dict(row) for row in (await connection.execute(statement, values)).mappings()]
            total = await self._total(connection, table, conditions, query, values)
        more = False
        if total is not None and query.count is Count.CAPPED:
            more = total > COUNT_CAP
            total = min(total, COUNT_CAP)
        following = None
        if query.keyset and len(rows) == query.per_page:
            last = rows[-1]
            following = cursors.encode(shape, shape.columns[query.sort], query.descending, last[query.sort], last["id"])
        data = b"[" + b",".join(_body(shape, row) for row in rows) + b"]"
        return list_envelope(query, data, total, next_cursor=following, counted=counted_as(query, more))

    async def get(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> bytes | None:
        async with self._reads(principal) as connection:
            return await _read(connection, shape, principal, row_id)

    async def current(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> Current | None:
        body = await self.get(shape, principal, row_id)
        return None if body is None else Current(body.decode(), exact(body), body)

    async def insert(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, columns: Mapping[str, Any]
    ) -> bytes:
        table = _table(shape, principal)
        now = datetime.datetime.now(datetime.UTC)
        values: dict[str, Any] = {**columns, "id": row_id}
        if shape.scoped:
            values["organization_id"] = principal.organization_id
        if "created_by_id" in shape.columns:
            values["created_by_id"] = principal.actor_id
        values |= {name: now for name in ("created_at", "updated_at") if name in shape.columns}
        async with self._writes(shape, principal) as connection:
            await connection.execute(sa.insert(table).values(_stored(shape, values)))
            body = await _read(connection, shape, principal, row_id)
            assert body is not None, "the row was inserted in this transaction"
            await _log(connection, shape, principal, Verb.CREATED, row_id, after=body)
        return body

    async def update(
        self,
        shape: ModelShape,
        principal: Principal,
        row_id: uuid.UUID,
        columns: Mapping[str, Any],
        version: str | None,
    ) -> bytes | None:
        table = _table(shape, principal)
        values = dict(columns)
        if "updated_at" in shape.columns:
            values["updated_at"] = datetime.datetime.now(datetime.UTC)
        async with self._writes(shape, principal) as connection:
            before = await _read(connection, shape, principal, row_id)
            if before is None or (version is not None and before.decode() != version):
                return None
            mine = [table.c.id == row_id, *_mine(shape, table, principal)]
            await connection.execute(sa.update(table).where(*mine).values(_stored(shape, values)))
            after = await _read(connection, shape, principal, row_id)
            assert after is not None, "the row was read in this transaction"
            await _log(connection, shape, principal, Verb.UPDATED, row_id, before=before, after=after)
        return after

    async def delete(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, version: str | None
    ) -> bytes | None:
        table = _table(shape, principal)
        async with self._writes(shape, principal) as connection:
            before = await _read(connection, shape, principal, row_id)
            if before is None or (version is not None and before.decode() != version):
                return None
            mine = [table.c.id == row_id, *_mine(shape, table, principal)]
            if shape.soft_delete:
                now = datetime.datetime.now(datetime.UTC)
                marks = {name: now for name in ("deleted_at", "updated_at") if name in shape.columns}
                await connection.execute(sa.update(table).where(*mine).values(marks))
            else:
                await connection.execute(sa.delete(table).where(*mine))
            await _log(connection, shape, principal, Verb.DELETED, row_id, before=before)
        return before

    async def aggregate(
        self, shape: ModelShape, principal: Principal, relation: Relation, key: Any
    ) -> Mapping[str, Any]:
        table = _table(shape, principal)
        statement = sa.select(*common.aggregates(shape, table.c, relation, table.name)).where(
            *common.children(shape, table.c, relation, SQLITE), *_mine(shape, table, principal)
        )
        values = common.children_values(shape, relation, key, SQLITE)
        async with self._reads(principal) as connection:
            return dict((await connection.execute(statement, values)).mappings().one())

    async def number(self, organization_id: uuid.UUID, place: SequencePlace) -> int:
        values = {
            "organization_id": organization_id,
            "addon_key": place.addon_key,
            "model_key": place.model_key,
            "key": place.key,
            "scope": place.scope,
        }
        statement = insert(_SEQUENCES).values(**values, value=1)
        raised = statement.on_conflict_do_update(
            index_elements=list(_SEQUENCES.primary_key), set_={"value": _SEQUENCES.c.value + 1}
        ).returning(_SEQUENCES.c.value)
        try:
            async with _connected(self._db, organization_id, writes=True) as connection:
                return int((await connection.execute(raised)).scalar_one())
        except OperationalError as error:
            raise Unavailable("the database is busy or being changed; try again", code="database_busy") from error

    async def _total(
        self,
        connection: AsyncConnection,
        table: sa.TableClause,
        conditions: list[sa.ColumnElement[bool]],
        query: ListQuery,
        values: Mapping[str, Any],
    ) -> int | None:
        """SQLite keeps no statistics worth an estimate, so that is an exact count."""
        if query.count is Count.NONE:
            return None
        counted: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table).where(*conditions)
        if query.count is Count.CAPPED:
            counted = counted.limit(COUNT_CAP + 1)
        total = await connection.scalar(sa.select(sa.func.count()).select_from(counted.subquery()), values)
        return int(total or 0)

    @asynccontextmanager
    async def _reads(self, principal: Principal) -> AsyncIterator[AsyncConnection]:
        try:
            async with _connected(self._db, principal.organization_id, writes=False) as connection:
                yield connection
        except OperationalError as error:
            raise Unavailable("the database is busy or being changed; try again", code="database_busy") from error

    @asynccontextmanager
    async def _writes(self, shape: ModelShape, principal: Principal) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its start."""
        try:
            async with _connected(self._db, principal.organization_id, writes=True) as connection:
                yield connection
        except IntegrityError as error:
            raise _explained(shape, str(error.orig)) from error
        except OperationalError as error:
            raise Unavailable("the database is busy or being changed; try again", code="database_busy") from error


@asynccontextmanager
async def one_writing(db: Database, shape: ModelShape, principal: Principal) -> AsyncIterator[None]:
    """What rows of `db` are read and changed within is one transaction, also by code that a change calls. `shape` is
    the model that it is about.

    Raises:
        Conflict, Refused, Unavailable: as a single change.
    """
    rows = SqliteRows(db)
    async with rows._writes(shape, principal) as connection:
        writing, around = _Writing(db, connection), _around.get()
        _around.set(writing)
        try:
            yield
        finally:
            writing.open = False
            _around.set(around)


@asynccontextmanager
async def _connected(db: Database, organization_id: uuid.UUID, *, writes: bool) -> AsyncIterator[AsyncConnection]:
    """A connection in the transaction around this, else in one of its own; one that `writes` is the only one."""
    around = _around.get()
    if around is not None and around.open and around.db is db:
        yield around.connection
        return
    # A database in memory has a single connection: whoever uses it must be alone with it.
    in_memory = isinstance(db.engine.sync_engine.pool, StaticPool)
    if not writes and not in_memory:
        async with db.transaction(organization_id) as connection:
            yield connection
        return
    async with _writing.setdefault(db, asyncio.Lock()), db.transaction(organization_id) as connection:
        if not in_memory:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


async def _read(
    connection: AsyncConnection, shape: ModelShape, principal: Principal, row_id: uuid.UUID
) -> bytes | None:
    table = _table(shape, principal)
    statement = sa.select(*_readable(shape, table)).where(table.c.id == row_id, *_mine(shape, table, principal))
    row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _body(shape, dict(row))


async def _log(
    connection: AsyncConnection,
    shape: ModelShape,
    principal: Principal,
    verb: Verb,
    row_id: uuid.UUID,
    **rows: bytes,
) -> None:
    """The event of the change, in its transaction; the relay numbers it after the commit."""
    await connection.execute(
        sa.insert(_EVENTS).values(
            organization_id=principal.organization_id,
            addon_key=shape.model.addon_key,
            event_type=shape.events[verb],
            tags=[],
            data={"id": str(row_id), **{name: orjson.loads(body) for name, body in rows.items()}},
            actor_id=principal.actor_id,
        )
    )


def _table(shape: ModelShape, principal: Principal) -> sa.TableClause:
    schema = shape.model.schema_of(principal.organization_id)
    known: sa.TableClause | None = shape.recall(("sqlite", schema))
    return known if known is not None else shape.remember(("sqlite", schema), common.table_of(shape, schema, SQLITE))


def _readable(shape: ModelShape, table: sa.TableClause) -> list[sa.ColumnElement[Any]]:
    return [table.c[column.name] for column in shape.readable]


def _mine(shape: ModelShape, table: sa.TableClause, principal: Principal) -> list[sa.ColumnElement[bool]]:
    mine = [table.c.organization_id == principal.organization_id] if shape.scoped else []
    return [*mine, *common.visible(shape, table.c)]


def _stored(shape: ModelShape, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: orjson.dumps(value).decode() if _is_foreign(shape.columns[name], value) else value
        for name, value in values.items()
    }


def _is_foreign(column: ColumnShape, value: Any) -> bool:
    """A list or object for a type that the contract has no word for: SQLite keeps it as JSON text."""
    return column.kind is Kind.OTHER and value is not None and not isinstance(value, str)


def _body(shape: ModelShape, row: Mapping[str, Any]) -> bytes:
    """The row as PostgreSQL would write it."""
    shown = {column.name: _shown(column, row[column.name]) for column in shape.readable}
    return orjson.dumps(shown, default=_plain)


def _shown(column: ColumnShape, value: Any) -> Any:
    if column.kind in TIME_KINDS and isinstance(value, datetime.datetime):
        text = value.isoformat()
        clock, zone = text[:-6], text[-6:]
        return (clock.rstrip("0") if "." in clock else clock) + zone
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _explained(shape: ModelShape, message: str) -> MetacoreError:
    """SQLite names the columns of a broken constraint in its message: `UNIQUE constraint failed: tickets.code`."""
    found = _FAILED.search(message)
    rule = found[1] if found else ""
    named = [part.rpartition(".")[2].strip() for part in (found[2] or "").split(",")] if found else []
    columns = [name for name in named if name in shape.columns and name != "organization_id"]
    label = " and ".join(columns)
    if rule == "UNIQUE":
        return Conflict(
            f"another row has the same {label or 'value'}",
            code="duplicate",
            problems=[Problem(column, "unique", "is taken by another row") for column in columns],
        )
    if rule == "FOREIGN KEY":
        return Refused("a referenced row is not there, or other rows refer to this one", code="referenced")
    code, text = ("required", "is required") if rule == "NOT NULL" else ("constraint", "breaks a rule of the table")
    return Refused(
        f"{label or 'the row'} {text}",
        code="validation",
        problems=[Problem(column, code, text) for column in columns],
    )
