"""The kernel's own statements by the driver alone: no HTTP, no tokens, no validation, one connection a caller."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import orjson
from tests.bench import traffic
from tests.bench.load import Result, drive_calls
from tests.bench.world import POOL_SIZE, Account, World

from metacore.db.database import Database
from metacore.db.roles import KERNEL_ROLE
from metacore.dynamic import postgres_statements as build
from metacore.dynamic.query import parse_list_query
from metacore.dynamic.shape import shape_of
from metacore.events.canonical import Verb
from metacore.ids import new_uuid

OPEN_SCHEMA = "bench_open"
"""Holds copies of the tables without policies."""

SCOPE = "set_config('app.current_org', CAST($1::UUID AS TEXT), true)"
ZONE = "set_config('TimeZone', 'UTC', true)"

Arguments = Callable[[], Sequence[Any]]


class Repeat:
    """A `Side`: one statement with ever new arguments, by as many callers as asked for or as there are connections."""

    def __init__(self, connections: Sequence[Any], sql: str, arguments: Arguments) -> None:
        self.connections = connections
        self.sql = sql
        self.arguments = arguments

    async def __call__(self, connections: int, seconds: float) -> Result:
        callers = [partial(self._call, connection) for connection in self.connections[:connections]]
        return await drive_calls(callers, seconds=seconds)

    async def _call(self, connection: Any) -> None:
        await connection.fetch(self.sql, *self.arguments())


class Driver:
    """Statements as the kernel builds them, over connections of the kernel's role."""

    def __init__(self, world: World, connections: Sequence[Any]) -> None:
        self._world = world
        self._connections = connections
        self._shape = shape_of(world.model)
        self._schema = world.model.schema

    def lists(self, pages: Sequence[traffic.Params]) -> Repeat:
        """Pages of the reader's rows in turn; one statement serves them all."""
        queries = [parse_list_query(self._world.model, page, max_per_page=200) for page in pages]
        (statement,) = {build.list_statement(self._shape, self._schema, query) for query in queries}
        organization = self._world.reader.organization_id
        ready = [statement.arguments({"organization": organization, "offset": query.offset}) for query in queries]
        return Repeat(self._connections, statement.sql, itertools.cycle(ready).__next__)

    def gets(self) -> Repeat:
        statement = build.get_statement(self._shape, self._schema)
        account = self._world.reader
        ready = [statement.arguments({"organization": account.organization_id, "ids": [id]}) for id in account.row_ids]
        return Repeat(self._connections, statement.sql, itertools.cycle(ready).__next__)

    def creates(self) -> Repeat:
        statement = build.insert_statement(self._shape, self._schema, tuple(sorted(traffic.NEW_ROW)))
        account = self._world.writer
        event = self._event(account, Verb.CREATED)

        def arguments() -> Sequence[Any]:
            row: dict[str, Any] = {**traffic.NEW_ROW, "id": new_uuid(), "created_by_id": account.user_id}
            return statement.arguments({**event, "rows": b"[" + orjson.dumps(row) + b"]"})

        return Repeat(self._connections, statement.sql, arguments)

    def updates(self) -> Repeat:
        names = tuple(sorted(traffic.change(0)))
        statement = build.update_statement(self._shape, self._schema, names, guarded=False)
        account = self._world.writer
        event = {**self._event(account, Verb.UPDATED), "actor": account.user_id}
        ids, numbers = itertools.cycle(account.row_ids), itertools.count()

        def arguments() -> Sequence[Any]:
            row = orjson.dumps(traffic.change(next(numbers)))
            return statement.arguments({**event, "id": next(ids), "row": row})

        return Repeat(self._connections, statement.sql, arguments)

    def _event(self, account: Account, verb: Verb) -> dict[str, Any]:
        return {
            "organization": account.organization_id,
            "addon_key": self._world.model.addon_key,
            "event_type": self._shape.events[verb],
            "depth": 0,
        }


@asynccontextmanager
async def driver(world: World) -> AsyncIterator[Driver]:
    async with AsyncExitStack() as stack:
        database = await Database.connect(world.kernel_url, pool_size=POOL_SIZE, application_name="bench")
        stack.push_async_callback(database.close)
        pool = database.postgres
        connections = [await stack.enter_async_context(pool.acquire()) for _ in range(POOL_SIZE)]
        yield Driver(world, connections)


async def make_open_tables(world: World) -> None:
    """Copies of the model's table and of the log of events: the same rows and indexes, no policies."""
    connection = await asyncpg.connect(world.superuser_url)
    try:
        await connection.execute(f"CREATE SCHEMA {OPEN_SCHEMA}")
        await connection.execute(f"GRANT USAGE ON SCHEMA {OPEN_SCHEMA} TO {KERNEL_ROLE}")
        for source in (f"{world.model.schema}.{world.model.table_name}", "public.metacore_events"):
            target = f"{OPEN_SCHEMA}.{source.partition('.')[2]}"
            await connection.execute(f"CREATE TABLE {target} (LIKE {source} INCLUDING ALL)")
            await connection.execute(f"INSERT INTO {target} OVERRIDING SYSTEM VALUE SELECT * FROM {source}")
            await connection.execute(f"VACUUM (ANALYZE, FREEZE) {target}")
            # A copy counts from one again, whatever it holds already.
            sequence = await connection.fetchval("SELECT pg_get_serial_sequence($1, 'id')", target)
            if sequence is not None:
                await connection.execute(
                    f"SELECT setval('{sequence}', (SELECT coalesce(max(id), 0) + 1 FROM {target}))"
                )
            await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {target} TO {KERNEL_ROLE}")
    finally:
        await connection.close()


def without_isolation(world: World, isolated: Repeat) -> Repeat:
    """The same statement on tables without policies, its scope setting nothing.

    Raises:
        ValueError: the kernel's statements set their scope in a way that is not known here.
    """
    organization = isolated.sql.find("set_config('app.current_org', CAST(")
    parameter = isolated.sql[organization:].partition("CAST(")[2].partition("::")[0]
    sql = isolated.sql
    for old, new in (
        (SCOPE.replace("$1", parameter), f"CAST({parameter}::UUID AS TEXT)"),
        (ZONE, "'UTC'"),
        (f"{world.model.schema}.", f"{OPEN_SCHEMA}."),
    ):
        if old not in sql:
            raise ValueError(f"{old} is not in the statement")
        sql = sql.replace(old, new)
    sql = sql.replace("INSERT INTO metacore_events", f"INSERT INTO {OPEN_SCHEMA}.metacore_events")
    return Repeat(isolated.connections, sql, isolated.arguments)
