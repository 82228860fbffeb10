"""`db_query` and `db_exec`: judged, permitted, and run as the guest's role."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from metacore.capabilities.access import Gate
from metacore.db.database import Database
from metacore.db.rls import quoted
from metacore.guest_sql import arguments, sessions
from metacore.guest_sql.callers import Context, Guest
from metacore.guest_sql.catalog import Catalog
from metacore.guest_sql.failures import host_error, no_role
from metacore.guest_sql.judge import judge
from metacore.guest_sql.judgement import Judgement, OwnNames, Refused
from metacore.guest_sql.permits import Permits
from metacore.guest_sql.sessions import Connection, Disguise
from metacore.registry import Registry
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MAX_HOST_REPLY_BYTES
from metacore.wasm.ports import HostError, HostReply

MAX_SECONDS: Final = 5.0
MAX_ROWS: Final = 10_000
ENVELOPE_BYTES: Final = 16 * 1024
"""What the reply needs beside its rows: names and types of columns, meta."""
MAX_ROW_BYTES: Final = MAX_HOST_REPLY_BYTES - ENVELOPE_BYTES
MOST_JUDGEMENTS: Final = 1024

ROW: Final = '"metacore row"'
GATHERED: Final = (
    "SELECT pg_catalog.count(*) AS rows, coalesce(pg_catalog.max(t.total), 0) AS bytes, "
    f"pg_catalog.string_agg(t.json, ',') FILTER (WHERE t.total <= {MAX_ROW_BYTES} AND t.place <= {MAX_ROWS}) AS json "
    "FROM (SELECT r.json, pg_catalog.sum(pg_catalog.octet_length(r.json) + 1) OVER w AS total, "
    "pg_catalog.count(*) OVER w AS place "
    f"FROM (SELECT pg_catalog.row_to_json({ROW}.*)::text AS json FROM {{source}} LIMIT {MAX_ROWS + 1}) AS r "
    "WINDOW w AS (ROWS UNBOUNDED PRECEDING)) AS t"
)
"""PostgreSQL writes the JSON, and never sends more of it than a reply may hold."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Types of the arguments' places, and name and type of each column of the result."""

    arguments: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]

    @property
    def described(self) -> list[dict[str, str]]:
        return [{"name": name, "type": kind} for name, kind in self.columns]


@dataclass(frozen=True, slots=True)
class _Call:
    """A statement on its way. `text` is its SQL with the schemas that this organization's rows are in."""

    judgement: Judgement
    text: str
    values: list[arguments.Value]
    disguise: Disguise
    started: float

    @property
    def wrapped(self) -> str:
        source = f"(\n{self.text}\n) AS {ROW}"
        if self.judgement.returning:
            return f"WITH {ROW} AS (\n{self.text}\n) {GATHERED.format(source=ROW)}"
        return GATHERED.format(source=source)


class GuestSql:
    """One per process. What was judged is remembered by text; what is granted is asked at every call."""

    def __init__(self, database: Database, registry: Registry, gate: Gate) -> None:
        self._database = database
        self._catalog = Catalog(database, registry)
        self._permits = Permits(self._catalog, gate)
        self._judgements: OrderedDict[tuple[OwnNames, bool, str], Judgement] = OrderedDict()
        self._shapes: OrderedDict[tuple[OwnNames, str], _Shape] = OrderedDict()

    async def query(self, guest: Guest, sql: str, args: list[Any]) -> HostReply | HostError:
        """One SELECT, read-only; inside an action's transaction it sees what that changed.

        Data `{rows, rowCount, columns: [{name, type}]}`, meta `{schema, durationMs, truncated}`. Of more than
        `MAX_ROWS` rows the first are given, and `truncated` says so.
        """
        return await self._answer(guest, sql, args, writing=False)

    async def execute(self, guest: Guest, sql: str, args: list[Any]) -> HostReply | HostError:
        """One INSERT, UPDATE, DELETE or MERGE on a savepoint of the action's transaction.

        Data `{rowsAffected, lastInsertId, returning, columns}`, meta `{txId}`. `lastInsertId` is the `id` of the last
        row that an INSERT returned, null without one. A statement that fails leaves the transaction as it was.
        """
        if guest.context.transaction is None and self._database.dialect != "sqlite":
            message = "db_exec needs the transaction of an action with run_in_tx; data_mutate has its own"
            return HostError(HostCode.NO_ACTIVE_TX, message)
        return await self._answer(guest, sql, args, writing=True)

    async def _answer(self, guest: Guest, sql: str, args: list[Any], *, writing: bool) -> HostReply | HostError:
        if self._database.dialect == "sqlite":
            return HostError(HostCode.DB_ERROR, "db_query and db_exec need PostgreSQL; this kernel runs on SQLite")
        try:
            call = await self._prepare(guest, sql, args, writing=writing)
            return await (self._write(guest.context, call) if writing else self._read(guest.context, call))
        except Refused as refusal:
            return HostError(refusal.code, refusal.reason)
        except asyncpg.PostgresError as error:
            if no_role(error):
                message = "this addon has no database role for its guests yet; the next reconcile makes it"
                return HostError(HostCode.DB_ERROR, message)
            return host_error(error)
        except (asyncpg.InterfaceError, OSError):
            return HostError(HostCode.DB_ERROR, "the database cannot be reached right now")

    async def _prepare(self, guest: Guest, sql: str, args: list[Any], *, writing: bool) -> _Call:
        started = time.monotonic()
        context = guest.context
        seconds = min(MAX_SECONDS, guest.call.remaining())
        if seconds <= 0:
            raise Refused(HostCode.QUERY_TIMEOUT, "there is no time left")
        addon = self._catalog.addon(context.addon_key)
        if addon is None:
            raise Refused(HostCode.FORBIDDEN, f"addon {context.addon_key!r} is not served")
        own = await self._catalog.own_names(addon, context.organization_id)
        schema = self._catalog.physical_schema(own.schema, context.organization_id)
        judgement = self._judged(sql, own, schema, writing=writing)
        values = arguments.decode(args)
        if len(values) != judgement.arguments:
            message = f"the statement takes {judgement.arguments} arguments, {len(values)} were given"
            raise Refused(HostCode.ARG_COUNT_MISMATCH, message)
        role = await self._permits.role_for(addon, context, own, judgement, values)
        text = self._placed(judgement, context.organization_id)
        return _Call(judgement, text, values, Disguise(role, schema, context.organization_id, seconds), started)

    def _judged(self, sql: str, own: OwnNames, schema: str, *, writing: bool) -> Judgement:
        # Where tenants have schemas, the names in them are the same; only a text that spells one out differs.
        key = (own, writing, sql)
        known = self._judgements.get(key)
        if known is not None:
            self._judgements.move_to_end(key)
            return known
        made = judge(sql, own, physical_schema=schema, writing=writing)
        if schema == own.schema or not made.schemas:
            _remember(self._judgements, key, made)
        return made

    def _placed(self, judgement: Judgement, organization_id: uuid.UUID) -> str:
        """The statement with every schema that it spells replaced by the one that holds this organization's rows."""
        text = judgement.sql
        for place in reversed(judgement.schemas):
            physical = self._catalog.physical_schema(place.schema, organization_id)
            if physical and physical != place.schema:
                text = text[: place.start] + quoted(physical) + text[place.end :]
        return text

    # -- running -------------------------------------------------------------------------------------------------

    async def _read(self, context: Context, call: _Call) -> HostReply:
        transaction = context.transaction
        if transaction is None:
            async with sessions.reading(self._database.postgres, call.disguise) as connection:
                shape, row = await self._gather(connection, call, json_as_bytes=True)
        else:
            async with sessions.reading_inside(transaction, call.disguise) as connection:
                shape, row = await self._gather(connection, call, json_as_bytes=False)
        count = min(row["rows"], MAX_ROWS)
        return HostReply(
            {"rows": _rows(row), "rowCount": count, "columns": shape.described},
            {
                "schema": call.disguise.schema,
                "durationMs": round((time.monotonic() - call.started) * 1000, 3),
                "truncated": row["rows"] > MAX_ROWS,
            },
        )

    async def _write(self, context: Context, call: _Call) -> HostReply:
        assert context.transaction is not None
        returning: Any = []
        last: Any = None
        async with sessions.writing(context.transaction, call.disguise) as change:
            if call.judgement.returning:
                shape, row = await self._gather(change.connection, call, json_as_bytes=False)
                affected = row["rows"]
                if affected > MAX_ROWS:
                    raise Refused(HostCode.ROW_LIMIT_EXCEEDED, f"the statement returns more than {MAX_ROWS} rows")
                returning = _rows(row)
                last = _last_id(row, shape) if call.judgement.kind == "insert" else None
            else:
                shape = await self._shape(change.connection, call)
                status = await self._run(change.connection, call, shape)
                affected = int(status.rsplit(" ", 1)[-1])
        return HostReply(
            {
                "rowsAffected": affected,
                "lastInsertId": last,
                "returning": returning,
                "columns": shape.described,
            },
            {"txId": change.transaction},
        )

    async def _run(self, connection: Connection, call: _Call, shape: _Shape) -> str:
        statement = await connection.prepare(call.text)
        values = self._converted(call, shape, json_as_bytes=False)
        try:
            await statement.fetch(*values)
        except asyncpg.DataError as error:
            raise _argument_error(error) from error
        return statement.get_statusmsg()

    async def _gather(
        self, connection: Connection, call: _Call, *, json_as_bytes: bool
    ) -> tuple[_Shape, asyncpg.Record]:
        shape = await self._shape(connection, call)
        values = self._converted(call, shape, json_as_bytes=json_as_bytes)
        try:
            row = await connection.fetchrow(call.wrapped, *values)
        except asyncpg.DataError as error:
            raise _argument_error(error) from error
        assert row is not None
        if row["bytes"] > MAX_ROW_BYTES:
            message = f"the rows have more than {MAX_ROW_BYTES} bytes as JSON; ask for fewer rows or columns"
            raise Refused(HostCode.PAYLOAD_TOO_LARGE, message)
        return shape, row
