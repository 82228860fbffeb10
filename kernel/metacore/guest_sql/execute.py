"""`db_query` and `db_exec`: judged, permitted, and run as the guest's role."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import asyncpg
import orjson

from metacore.db.database import Database
from metacore.guest_sql import arguments, sessions
from metacore.guest_sql.callers import Context, Guest
from metacore.guest_sql.catalog import Catalog
from metacore.guest_sql.failures import host_error, no_role
from metacore.guest_sql.judgement import Judgement, OwnNames, Refused
from metacore.guest_sql.judging import Judgements, remember
from metacore.guest_sql.permits import Permits, SqlGate
from metacore.guest_sql.sessions import Connection, Disguise
from metacore.guest_sql.spelled import NO_TYPES, spelled, types_of
from metacore.registry import Registry
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MAX_HOST_REPLY_BYTES
from metacore.wasm.ports import HostError, HostReply

MAX_SECONDS: Final = 5.0
MAX_ROWS: Final = 10_000
ENVELOPE_BYTES: Final = 16 * 1024
"""What the reply needs beside its rows: names and types of columns, meta."""
MAX_ROW_BYTES: Final = MAX_HOST_REPLY_BYTES - ENVELOPE_BYTES

ROW: Final = '"metacore row"'
GATHERED: Final = """
SELECT pg_catalog.count(*) AS rows, coalesce(pg_catalog.max(t.total), 0) AS bytes,
  pg_catalog.string_agg(t.json, ',') FILTER (WHERE t.total <= {bytes} AND t.place <= {rows}) AS json
FROM (
  SELECT r.json, pg_catalog.sum(pg_catalog.octet_length(r.json) + 1) OVER w AS total,
    pg_catalog.count(*) OVER w AS place
  FROM (SELECT pg_catalog.row_to_json({row}.*)::text AS json FROM {source} LIMIT {rows} + 1) AS r
  WINDOW w AS (ROWS UNBOUNDED PRECEDING)
) AS t"""
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

    own: OwnNames
    judgement: Judgement
    text: str
    values: list[arguments.Value]
    disguise: Disguise
    started: float

    @property
    def wrapped(self) -> str:
        if self.judgement.returning:
            return f"WITH {ROW} AS (\n{self.text}\n) {_gathered(ROW)}"
        return _gathered(f"(\n{self.text}\n) AS {ROW}")


Run: TypeAlias = Callable[[Context, _Call], Awaitable[HostReply]]


class _SaysNothing(Exception):
    """PostgreSQL cannot tell what the places of these arguments take, or takes them for text and they are none; it
    says nothing of which when `numbers` is empty. `refusal` is the answer when naming their types does not help. Never
    leaves this module."""

    def __init__(self, refusal: Refused | asyncpg.PostgresError, numbers: Iterable[int] = ()) -> None:
        super().__init__()
        self.refusal = refusal
        self.numbers = frozenset(numbers)


def _gathered(source: str) -> str:
    return GATHERED.format(source=source, row=ROW, rows=MAX_ROWS, bytes=MAX_ROW_BYTES)


class GuestSql:
    """One per process. What was judged is remembered by text; what is granted is asked at every call."""

    def __init__(self, database: Database, registry: Registry, gate: SqlGate) -> None:
        self._database = database
        self._catalog = Catalog(database, registry)
        self._permits = Permits(self._catalog, gate)
        self._judgements = Judgements()
        self._shapes: OrderedDict[tuple[OwnNames, str], _Shape] = OrderedDict()
        self._typed: OrderedDict[tuple[OwnNames, str, tuple[str, ...]], frozenset[int]] = OrderedDict()
        """Statements, with the types of arguments, that run when the types of these are said, and not without."""

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
            return await self._run_typed(guest, call, self._write if writing else self._read)
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
        seconds = _left(guest)
        addon = self._catalog.addon(context.addon_key)
        if addon is None:
            raise Refused(HostCode.FORBIDDEN, f"addon {context.addon_key!r} is not served")
        own = await self._catalog.own_names(addon, context.organization_id)
        schema = self._catalog.physical_schema(own.schema, context.organization_id)
        judgement = self._judgements.known(sql, own, schema, writing=writing)
        if judgement is None:
            judgement = await self._judgements.make(sql, own, schema, context, writing=writing, seconds=seconds)
            seconds = _left(guest)
        values = arguments.decode(args)
        if len(values) != judgement.arguments:
            message = f"the statement takes {judgement.arguments} arguments, {len(values)} were given"
            raise Refused(HostCode.ARG_COUNT_MISMATCH, message)
        role = await self._permits.role_for(context, own, judgement, values)
        disguise = Disguise(role, schema, context.organization_id, seconds)
        return _Call(own, judgement, self._spelled(judgement, disguise), values, disguise, started)

    def _spelled(self, judgement: Judgement, disguise: Disguise, types: Mapping[int, str] = NO_TYPES) -> str:
        """The statement with every schema that it spells replaced by the one that holds this organization's rows."""
        return spelled(judgement, lambda schema: self._catalog.physical_schema(schema, disguise.organization_id), types)

    async def _run_typed(self, guest: Guest, call: _Call, run: Run) -> HostReply:
        """Run it, with the types of those arguments said whose places say nothing: PostgreSQL tells one by one which
        those are, and it is remembered."""
        types = types_of(call.values)
        key = (call.own, call.text, types)
        said: frozenset[int] = self._typed.get(key, frozenset())
        first: _SaysNothing | None = None
        while True:
            attempt = (
                call if not said else self._with_types(guest, call, {number: types[number - 1] for number in said})
            )
            try:
                answer = await run(guest.context, attempt)
            except _SaysNothing as silent:
                first = first or silent
                # Strings fit many places by themselves, so they are named last.
                others = (
                    silent.numbers,
                    [n for n, kind in enumerate(types, 1) if kind != "text"],
                    range(1, len(types) + 1),
                )
                more = next((set(numbers) - said for numbers in others if not said.issuperset(numbers)), set())
                if not more:
                    raise first.refusal from None
                said |= more
            except asyncpg.PostgresError as error:
                if first is None or not (error.sqlstate or "").startswith(("42", "22")):
                    raise
                raise first.refusal from None
            else:
                if first is not None:
                    remember(self._typed, key, said)
                return answer

    def _with_types(self, guest: Guest, call: _Call, types: Mapping[int, str]) -> _Call:
        disguise = replace(call.disguise, seconds=_left(guest))
        return replace(call, text=self._spelled(call.judgement, disguise, types), disguise=disguise)

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
        """The server's word on what was done, such as `UPDATE 3`. Always one statement by protocol, too."""
        values = self._converted(call, shape, json_as_bytes=False)
        try:
            if values:
                return await connection.execute(call.text, *values)
            # Without arguments `execute` would send the text as it is, which may hold several statements.
            statement = await connection.prepare(call.text)
            await statement.fetch()
            return statement.get_statusmsg() or ""
        except asyncpg.DataError as error:
            _refuse_argument(error)
            raise

    async def _gather(
        self, connection: Connection, call: _Call, *, json_as_bytes: bool
    ) -> tuple[_Shape, asyncpg.Record]:
        shape = await self._shape(connection, call)
        values = self._converted(call, shape, json_as_bytes=json_as_bytes)
        try:
            row = await connection.fetchrow(call.wrapped, *values)
        except asyncpg.DataError as error:
            _refuse_argument(error)
            raise
        assert row is not None
        if row["bytes"] > MAX_ROW_BYTES:
            message = f"the rows have more than {MAX_ROW_BYTES} bytes as JSON; ask for fewer rows or columns"
            raise Refused(HostCode.PAYLOAD_TOO_LARGE, message)
        return shape, row

    async def _shape(self, connection: Connection, call: _Call) -> _Shape:
        key = (call.own, call.text)
        known = self._shapes.get(key)
        if known is None:
            try:
                statement = await connection.prepare(call.text)
            except (asyncpg.IndeterminateDatatypeError, asyncpg.AmbiguousFunctionError) as error:
                if not call.values:
                    raise
                raise _SaysNothing(error, map(int, NAMED.findall(str(error)))) from None
            known = _Shape(
                tuple(kind.name for kind in statement.get_parameters()),
                tuple((column.name, column.type.name) for column in statement.get_attributes()),
            )
            remember(self._shapes, key, known)
        else:
            self._shapes.move_to_end(key)
        return known

    def _converted(self, call: _Call, shape: _Shape, *, json_as_bytes: bool) -> list[Any]:
        try:
            return arguments.convert(call.values, shape.arguments, json_as_bytes=json_as_bytes)
        except Refused as refusal:
            misfits = arguments.taken_for_text(call.values, shape.arguments)
            if not misfits:
                raise
            raise _SaysNothing(refusal, misfits) from None


def _left(guest: Guest) -> float:
    """How many seconds a statement may take.

    Raises:
        Refused: with `query_timeout`, when there are none.
    """
    seconds = min(MAX_SECONDS, guest.call.remaining())
    if seconds <= 0:
        raise Refused(HostCode.QUERY_TIMEOUT, "there is no time left")
    return seconds


def _rows(row: asyncpg.Record) -> orjson.Fragment:
    return orjson.Fragment(f"[{row['json'] or ''}]")


def _last_id(row: asyncpg.Record, shape: _Shape) -> Any:
    """The `id` of the last row that came back."""
    if not row["json"] or all(name != "id" for name, _ in shape.columns):
        return None
    return orjson.loads(f"[{row['json']}]")[-1]["id"]


NAMED = re.compile(r"parameter \$(\d+)")
CLIENT_SIDE = re.compile(r"invalid input for query argument \$(\d+)")


def _refuse_argument(error: asyncpg.DataError) -> None:
    """What the driver could not send. Its message holds the value, so it goes nowhere.

    Raises:
        Refused: the driver, not the server, refused an argument.
    """
    found = CLIENT_SIDE.match(str(error))
    if found is not None:
        message = f"argument {found[1]} does not fit its place in the statement"
        raise Refused(HostCode.ARG_DECODE, message) from None
