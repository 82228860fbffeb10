"""Rows on PostgreSQL: prepared statements over asyncpg, JSON bytes passed on as they come, requests coalesced."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from metacore.db.database import Database
from metacore.db.faults import LOST, unreachable
from metacore.dynamic import cursor as cursors
from metacore.dynamic import postgres_statements as build
from metacore.dynamic import statements as common
from metacore.dynamic.coalesce import Coalescer
from metacore.dynamic.connections import Connection, Connections, OneConnection, connections_of
from metacore.dynamic.postgres_statements import Statement
from metacore.dynamic.query import Count, ListQuery
from metacore.dynamic.rows import Current, SequencePlace, counted_as, exact, list_envelope
from metacore.dynamic.shape import ModelShape
from metacore.dynamic.violations import explained
from metacore.errors import Unavailable
from metacore.events.canonical import Verb
from metacore.identity import Principal
from metacore.manifest.model import Relation
from metacore.orm import cause

log = logging.getLogger(__name__)

NewRow = tuple[uuid.UUID, bytes]
"""A row to insert: its id, and its JSON with id and author in it."""


class PostgresRows:
    """`Rows` over the pool of `db`. With `coalesce`, requests that wait for the same statement share one."""

    def __init__(self, db: Database, *, coalesce: bool = True, within: Connection | None = None) -> None:
        """`within` is a connection in a transaction that everything becomes part of; rows that are read in order to be
        changed are then held until its end."""
        self._db = db
        self._connections: Connections = OneConnection(within) if within is not None else connections_of(db)
        self._lanes = Coalescer() if coalesce and within is None else None
        self._holds = within is not None

    async def page(self, shape: ModelShape, principal: Principal, query: ListQuery) -> bytes:
        if self._lanes is None:
            return await self._list(shape, principal, query)
        key = ("list", shape, principal.organization_id, principal.role, query)
        return await self._lanes.share(key, lambda: self._list(shape, principal, query))

    async def get(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> bytes | None:
        organization_id = principal.organization_id

        async def send(ids: Sequence[uuid.UUID]) -> Sequence[bytes | None]:
            return await self._bodies(shape, organization_id, ids)

        if self._lanes is None:
            return (await send((row_id,)))[0]
        return await self._lanes.submit(("get", shape, organization_id, principal.role), row_id, send)

    async def current(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> Current | None:
        schema = shape.model.schema_of(principal.organization_id)
        held = self._holds
        statement = _kept(shape, ("current", schema, held), lambda: build.current_statement(shape, schema, held=held))
        values = {"organization": principal.organization_id, "id": row_id}
        found = await self._read(shape, statement, values)
        return Current(found[0][0], exact(found[0][1]), found[0][1].encode()) if found else None

    async def insert(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, columns: Mapping[str, Any]
    ) -> bytes:
        names = tuple(sorted(columns))
        row = orjson.dumps({**columns, "id": row_id, "created_by_id": principal.actor_id}, default=str)
        depth = cause.depth()

        async def send(rows: Sequence[NewRow]) -> Sequence[bytes | Exception]:
            # Whoever sends for all that wait may have another cause; those of one lane have the same.
            with cause.at(depth):
                return await self._insert(shape, principal, names, rows)

        if self._lanes is None:
            return _result((await send(((row_id, row),)))[0])
        author = None if build.names_author(shape) else principal.actor_id
        key = ("insert", shape, principal.organization_id, principal.role, names, author, depth)
        return await self._lanes.submit(key, (row_id, row), send, weight=len(row))

    async def update(
        self,
        shape: ModelShape,
        principal: Principal,
        row_id: uuid.UUID,
        columns: Mapping[str, Any],
        version: str | None,
    ) -> bytes | None:
        schema = shape.model.schema_of(principal.organization_id)
        names = tuple(sorted(columns))
        guarded = version is not None
        statement = _kept(
            shape,
            ("update", schema, names, guarded),
            lambda: build.update_statement(shape, schema, names, guarded=guarded),
        )
        values = _change(shape, principal, Verb.UPDATED, row_id, version)
        values["row"] = orjson.dumps(dict(columns), default=str)
        return await self._write(shape, statement, values)

    async def delete(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, version: str | None
    ) -> bytes | None:
        schema = shape.model.schema_of(principal.organization_id)
        guarded = version is not None
        statement = _kept(
            shape, ("delete", schema, guarded), lambda: build.delete_statement(shape, schema, guarded=guarded)
        )
        return await self._write(shape, statement, _change(shape, principal, Verb.DELETED, row_id, version))

    async def aggregate(
        self, shape: ModelShape, principal: Principal, relation: Relation, key: Any
    ) -> Mapping[str, Any]:
        schema = shape.model.schema_of(principal.organization_id)
        values = common.children_values(shape, relation, key, build.POSTGRESQL)
        statement = _kept(
            shape,
            ("aggregate", schema, repr(relation)),
            lambda: build.aggregate_statement(shape, schema, relation),
        )
        found = await self._read(shape, statement, values | {"organization": principal.organization_id})
        return exact(found[0][0])

    async def number(self, organization_id: uuid.UUID, place: SequencePlace) -> int:
        values = {
            "organization": organization_id,
            "addon_key": place.addon_key,
            "model_key": place.model_key,
            "key": place.key,
            "scope": place.scope,
        }
        statement = build.number_statement()
        try:
            return int((await self._connections.fetch(statement.sql, statement.arguments(values)))[0][0])
        except LOST as error:
            raise unreachable() from error

    async def _list(self, shape: ModelShape, principal: Principal, query: ListQuery) -> bytes:
        schema = shape.model.schema_of(principal.organization_id)
        statement = _kept(shape, _list_key(schema, query), lambda: build.list_statement(shape, schema, query))
        values = common.filter_values(shape, query, "postgresql")
        values["organization"] = principal.organization_id
        values["offset"] = query.offset
        record = (await self._read(shape, statement, values))[0]
        total: int | None = record["total"]
        more = False
        if total is not None and query.count is Count.CAPPED:
            more = total > build.COUNT_CAP
            total = min(total, build.COUNT_CAP)
        elif total is not None and query.count is Count.ESTIMATED and total > build.ESTIMATE_FROM:
            more = True
            total = max(total, await self._estimate(shape, schema, query, values))
        following = None
        if query.keyset and record["size"] == query.per_page:
            column = shape.columns[query.sort]
            following = cursors.encode(shape, column, query.descending, record["last_value"], record["last_id"])
        return list_envelope(query, record["data"], total, next_cursor=following, counted=counted_as(query, more))

    async def _estimate(self, shape: ModelShape, schema: str, query: ListQuery, values: Mapping[str, Any]) -> int:
        """How many rows the planner expects, from its statistics about this table."""
        key = ("estimate", *_list_key(schema, query))
        statement = _kept(shape, key, lambda: build.estimate_statement(shape, schema, query))
        explain = Statement(f"EXPLAIN (FORMAT JSON) {statement.sql}", statement.names)
        plan = orjson.loads((await self._read(shape, explain, values))[0][0])
        return int(plan[0]["Plan"]["Plan Rows"])

    async def _bodies(
        self, shape: ModelShape, organization_id: uuid.UUID, ids: Sequence[uuid.UUID]
    ) -> list[bytes | None]:
        """The JSON of each row, None for those that do not exist for the organization."""
        schema = shape.model.schema_of(organization_id)
        statement = _kept(shape, ("get", schema), lambda: build.get_statement(shape, schema))
        found = await self._read(shape, statement, {"organization": organization_id, "ids": list(dict.fromkeys(ids))})
        if len(ids) == 1:
            return [found[0][1]]
        bodies: dict[uuid.UUID, bytes | None] = {record[0]: record[1] for record in found}
        return [bodies[row_id] for row_id in ids]

    async def _insert(
        self, shape: ModelShape, principal: Principal, names: tuple[str, ...], rows: Sequence[NewRow]
    ) -> list[bytes | Exception]:
        """Insert all of `rows` in one statement; if the server refuses that, one by one, each with its own answer."""
        statement, values = self._insertion(shape, principal, names, rows)
        try:
            made = await self._connections.fetch(statement.sql, statement.arguments(values))
        except LOST as error:
            log.warning("the connection broke while inserting %d rows of %s: %r", len(rows), shape.model.key, error)
            return await self._recover(shape, principal, names, rows)
        except asyncpg.PostgresError as error:
            if len(rows) == 1:
                reason = await explained(error, shape, self._db.postgres) or error
                if reason is not error:
                    reason.__cause__ = error
                return [reason]
            return [(await self._insert(shape, principal, names, (row,)))[0] for row in rows]
        bodies: dict[uuid.UUID, bytes] = {record[0]: record[1] for record in made}
        return [bodies[row_id] for row_id, _ in rows]

    async def _recover(
        self, shape: ModelShape, principal: Principal, names: tuple[str, ...], rows: Sequence[NewRow]
    ) -> list[bytes | Exception]:
        """The connection died: rows that are there were committed, the others are sent once more.

        Their ids were given before, so a statement that the server still finishes in the background cannot lead to a
        second row: the repetition waits for it and then finds the id taken, which means that the row is there.
        """
        try:
            bodies = await self._bodies(shape, principal.organization_id, [row_id for row_id, _ in rows])
        except Unavailable as error:
            return [error] * len(rows)
        return [
            body if body is not None else await self._insert_again(shape, principal, names, row)
            for row, body in zip(rows, bodies, strict=True)
        ]

    async def _insert_again(
        self, shape: ModelShape, principal: Principal, names: tuple[str, ...], row: NewRow
    ) -> bytes | Exception:
        statement, values = self._insertion(shape, principal, names, (row,))
        try:
            made = await self._connections.fetch(statement.sql, statement.arguments(values))
        except LOST:
            return unreachable()
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.UniqueViolationError):
                body = (await self._bodies(shape, principal.organization_id, [row[0]]))[0]
                if body is not None:
                    return body
            return await explained(error, shape, self._db.postgres) or error
        body_made: bytes = made[0][1]
        return body_made

    def _insertion(
        self, shape: ModelShape, principal: Principal, names: tuple[str, ...], rows: Sequence[NewRow]
    ) -> tuple[Statement, dict[str, Any]]:
        schema = shape.model.schema_of(principal.organization_id)
        statement = _kept(shape, ("insert", schema, names), lambda: build.insert_statement(shape, schema, names))
        return statement, {
            "organization": principal.organization_id,
            "addon_key": shape.model.addon_key,
            "event_type": shape.events[Verb.CREATED],
            "actor": principal.actor_id,
            "depth": cause.depth(),
            "rows": b"[" + b",".join(row for _, row in rows) + b"]",
        }

    async def _read(
        self, shape: ModelShape, statement: Statement, values: Mapping[str, Any]
    ) -> Sequence[asyncpg.Record]:
        """Run a statement that writes nothing; a connection that turns out to be dead is replaced once."""
        arguments = statement.arguments(values)
        try:
            try:
                return await self._connections.fetch(statement.sql, arguments)
            except TimeoutError:
                raise
            except LOST:
                return await self._connections.fetch(statement.sql, arguments)
        except LOST as error:
            raise unreachable() from error
        except asyncpg.PostgresError as error:
            if (reason := await explained(error, shape, self._db.postgres)) is None:
                raise
            raise reason from error

    async def _write(self, shape: ModelShape, statement: Statement, values: Mapping[str, Any]) -> bytes | None:
        try:
            found = await self._connections.fetch(statement.sql, statement.arguments(values))
        except LOST as error:
            raise Unavailable(
                "the connection to the database broke; read the row to see whether the change was made",
                code="outcome_unknown",
            ) from error
        except asyncpg.PostgresError as error:
            if (reason := await explained(error, shape, self._db.postgres)) is None:
                raise
            raise reason from error
        return found[0][1] if found else None


def _change(
    shape: ModelShape, principal: Principal, verb: Verb, row_id: uuid.UUID, version: str | None
) -> dict[str, Any]:
    return {
        "organization": principal.organization_id,
        "addon_key": shape.model.addon_key,
        "event_type": shape.events[verb],
        "actor": principal.actor_id,
        "depth": cause.depth(),
        "id": row_id,
        "version": version,
    }


def _kept(shape: ModelShape, key: Hashable, make: Callable[[], Statement]) -> Statement:
    """The statement under `key`, built and compiled on first use."""
    known: Statement | None = shape.recall(key)
    return known if known is not None else shape.remember(key, make())


def _list_key(schema: str, query: ListQuery) -> tuple[Any, ...]:
    """Everything of a query that changes the text of its statement."""
    return (
        "list",
        schema,
        common.filter_shape(query),
        bool(query.search),
        query.sort,
        query.descending,
        query.per_page,
        query.offset > 0,
        query.count,
        query.keyset,
        query.cursor is not None,
        query.cursor is not None and query.cursor.value is None,
    )


def _result(result: bytes | Exception) -> bytes:
    if isinstance(result, Exception):
        raise result
    return result
