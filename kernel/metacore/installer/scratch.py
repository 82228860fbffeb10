"""A place where an addon's migrations can be tried: a copy of its schema, and a role that owns nothing but that.

Both are there only while the connection that made them holds an advisory lock, and go at its end. After a kill the lock
is free, and whoever sweeps next takes them away: the next rehearsal of that addon, or the start of an operator.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from metacore.db.roles import scram_verifier
from metacore.db.sockets import Watched
from metacore.errors import Unavailable
from metacore.installer.blueprint import Blueprint, draw
from metacore.installer.migration_role import LOGIN_LIFE, SESSION
from metacore.installer.names import quoted, scratch_role

SCHEMA_PREFIX = "scratch_"
COPIED_ROWS = 1_000
"""Rows of a table that are copied: enough that a cast or a constraint meets real values, and quick."""
COPIED_BYTES = 8 * 1024 * 1024
"""Bytes of a table's rows that are copied; one that has more in its first rows is left empty."""
COUNTED_ROWS = 50_000
"""Rows of a table that are counted. PostgreSQL rewrites some hundred thousand rows in a second; with fewer than these
nobody waits long whatever a migration does."""


@dataclass(frozen=True, slots=True)
class Size:
    """`rows` were counted up to `COUNTED_ROWS`; `more`: there are more. `sampled`: not all of them were copied."""

    rows: int
    more: bool
    sampled: bool


@dataclass(frozen=True, slots=True)
class Scratch:
    """`connection` is one of the scratch role, its search path set to the copy."""

    schema: str
    role: str
    connection: asyncpg.Connection[asyncpg.Record]
    sizes: dict[str, Size]


def scratch_schema(key: str) -> str:
    return SCHEMA_PREFIX + key


@asynccontextmanager
async def copy_of(direct_url: str, key: str, schema: str) -> AsyncIterator[Scratch]:
    """A copy of `schema` (of an empty one when it does not exist) with some of its rows, gone when the block ends.

    Raises:
        Unavailable: another process tries this addon's migrations just now.
        asyncpg.PostgresError: the schema holds something that could not be copied.
    """
    owner = await connect_owner(direct_url, "metacore-scratch")
    try:
        if not await owner.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", _lock_text(key)):
            raise Unavailable(f"the migrations of addon {key!r} are tried by another process just now")
        role = scratch_role(await owner.fetchval("SELECT current_database()"), key)
        await _drop(owner, key, role)
        try:
            password = await _make(owner, key, role)
            async with owner.transaction(isolation="repeatable_read", readonly=True):
                blueprint = await draw(owner, schema, role)
                url = make_url(direct_url).set(drivername="postgresql", username=role, password=password)
                connection = await asyncpg.connect(
                    url.render_as_string(hide_password=False),
                    server_settings=SESSION,
                    statement_cache_size=0,
                    connection_class=Watched,
                )
                try:
                    sizes = await _fill(owner, connection, schema, scratch_schema(key), blueprint)
                except BaseException:
                    connection.terminate()
                    raise
            try:
                yield Scratch(scratch_schema(key), role, connection, sizes)
            finally:
                await connection.close(timeout=10)
        finally:
            await _to_the_end(_drop(owner, key, role))
    finally:
        await owner.close(timeout=10)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` though this task is cancelled meanwhile: nobody else has its connection."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def sweep(direct_url: str) -> int:
    """Take away what killed processes left behind. Returns of how many addons."""
    owner = await connect_owner(direct_url, "metacore-scratch-sweep")
    swept = 0
    try:
        prefix = scratch_role(await owner.fetchval("SELECT current_database()"), "")
        for row in await owner.fetch("SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", prefix):
            key = row["rolname"].removeprefix(prefix)
            if await owner.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", _lock_text(key)):
                await _drop(owner, key, row["rolname"])
                await owner.execute("SELECT pg_advisory_unlock(hashtextextended($1, 0))", _lock_text(key))
                swept += 1
    finally:
        await owner.close(timeout=10)
    return swept


async def connect_owner(direct_url: str, name: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(
            make_url(direct_url).set(drivername="postgresql").render_as_string(hide_password=False),
            statement_cache_size=0,
            server_settings={"application_name": name, "lock_timeout": "10s", "statement_timeout": "60s"},
            connection_class=Watched,
        )
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise Unavailable(f"the database does not answer: {type(error).__name__}") from error


async def _make(owner: asyncpg.Connection[asyncpg.Record], key: str, role: str) -> str:
    """The empty schema and its role, which may log in. Returns its password."""
    password = secrets.token_urlsafe(32)
    name = quoted(role)
    async with owner.transaction():
        until = await owner.fetchval("SELECT now() + $1::interval", LOGIN_LIFE)
        # Only the verifier travels, so no log of the server ever holds the password.
        login = f"LOGIN NOINHERIT PASSWORD '{scram_verifier(password)}' VALID UNTIL '{until.isoformat()}'"
        await owner.execute(f"CREATE ROLE {name} {login}")
        await owner.execute(f"GRANT {name} TO CURRENT_USER")
        await owner.execute(f"CREATE SCHEMA {quoted(scratch_schema(key))} AUTHORIZATION {name}")
        if not await owner.fetchval("SELECT has_database_privilege($1, current_database(), 'CONNECT')", role):
            database = quoted(await owner.fetchval("SELECT current_database()"))
            await owner.execute(f"GRANT CONNECT ON DATABASE {database} TO {name}")
        if await owner.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extnamespace = 'public'::regnamespace)"):
            await owner.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
    return password


async def _drop(owner: asyncpg.Connection[asyncpg.Record], key: str, role: str) -> None:
    if not await owner.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
        return
    await owner.execute(f"ALTER ROLE {quoted(role)} NOLOGIN")
    await owner.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", role)
    async with owner.transaction():
        await owner.execute(f"DROP SCHEMA IF EXISTS {quoted(scratch_schema(key))} CASCADE")
        await owner.execute(f"DROP OWNED BY {quoted(role)}")
        await owner.execute(f"DROP ROLE {quoted(role)}")


async def _fill(
    owner: asyncpg.Connection[asyncpg.Record],
    scratch: asyncpg.Connection[asyncpg.Record],
    schema: str,
    copy: str,
    blueprint: Blueprint,
) -> dict[str, Size]:
    """Make the copy. Only its own role runs what the addon wrote (defaults, generated columns), never the owner."""
    await scratch.execute(f"SET search_path = {quoted(copy)}, public, pg_temp")
    sizes: dict[str, Size] = {}
    async with scratch.transaction():
        for statement in blueprint.before:
            await scratch.execute(statement)
        for table in blueprint.tables:
            place = f"{quoted(schema)}.{quoted(table.name)}"
            counted = await count_rows(owner, place)
            copied = await _copy_rows(owner, scratch, place, copy, table.name, table.columns)
            sizes[table.name] = Size(min(counted, COUNTED_ROWS), counted > COUNTED_ROWS, copied < counted)
        for statement in blueprint.after:
            await scratch.execute(statement)
        for statement in blueprint.keys:
            partly = any(size.sampled for size in sizes.values()) and not statement.endswith("NOT VALID")
            await scratch.execute(f"{statement} NOT VALID" if partly else statement)
    return sizes


async def count_rows(owner: asyncpg.Connection[asyncpg.Record], place: str) -> int:
    """Rows of a table, `COUNTED_ROWS` + 1 at most; `place` is its quoted name."""
    probe = f"SELECT count(*) FROM (SELECT FROM {place} LIMIT {COUNTED_ROWS + 1}) AS found"  # noqa: S608
    return int(await owner.fetchval(probe))


async def _copy_rows(
    owner: asyncpg.Connection[asyncpg.Record],
    scratch: asyncpg.Connection[asyncpg.Record],
    place: str,
    copy: str,
    table: str,
    columns: tuple[str, ...],
) -> int:
    """Returns how many rows were copied."""
    if not columns:
        return 0
    content = bytearray()

    async def keep(chunk: bytes) -> None:
        if len(content) <= COPIED_BYTES:
            content.extend(chunk)

    wanted = ", ".join(quoted(column) for column in columns)
    await owner.copy_from_query(f"SELECT {wanted} FROM {place} LIMIT {COPIED_ROWS}", output=keep)  # noqa: S608
    if not content or len(content) > COPIED_BYTES:
        return 0

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(content)

    done = await scratch.copy_to_table(table, schema_name=copy, columns=columns, source=chunks())
    return int(done.rsplit(" ", 1)[-1])


def _lock_text(key: str) -> str:
    return f"metacore scratch {key}"
