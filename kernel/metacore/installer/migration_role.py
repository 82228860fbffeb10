"""Running an addon's SQL: over a connection of its own, as a login role that owns nothing but the addon's schemas.

The role may log in only while migrations run, with a password that is made for the run and never stored. Since it may
not write the kernel's tables, a migration leaves its mark in `metacore_marks."<addon key>"`, a table of the owner that
the role can add rows to, in the migration's own transaction: after a kill the owner finds there whether it committed,
and copies it to `metacore_addon_migrations`.

That transaction also takes the addon's advisory lock itself and compares the attempt that the owner wrote beside the
marks. So a migration that belongs to a superseded attempt cannot commit, whatever became of the owner's connection.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.roles import scram_verifier
from metacore.db.sockets import Watched
from metacore.errors import Conflict, InstallFailed, MetacoreError, Unavailable
from metacore.installer.failures import retryable, said
from metacore.installer.journal import lock_text
from metacore.installer.names import quoted
from metacore.installer.observe import MARKS_SCHEMA, driver_of
from metacore.installer.sql_migrations import JudgedMigration, spoken
from metacore.installer.verify import findings

LOGIN_LIFE = datetime.timedelta(hours=2)
"""How long the password of a run that was killed could still be used by nobody who knows it."""

RECORDS = "public.metacore_addon_migrations"

SESSION = {
    "application_name": "metacore-migration",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "lock_timeout": "10s",
    "statement_timeout": "600s",
    "idle_in_transaction_session_timeout": "60s",
    "client_connection_check_interval": "5s",
}


async def open_login(connection: AsyncConnection, role: str, key: str, attempt: int) -> str:
    """Let `role` log in for this attempt, in the transaction of `connection`. Returns its password."""
    driver = await driver_of(connection)
    password = secrets.token_urlsafe(32)
    until = await driver.fetchval("SELECT now() + $1::interval", LOGIN_LIFE)
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    database = quoted(await driver.fetchval("SELECT current_database()"))
    name = quoted(role)
    # Only the verifier travels, so no log of the server ever holds the password.
    statements = [
        f"ALTER ROLE {name} LOGIN PASSWORD '{scram_verifier(password)}' VALID UNTIL '{until.isoformat()}'",
        f"CREATE SCHEMA IF NOT EXISTS {MARKS_SCHEMA}",
        f"CREATE TABLE IF NOT EXISTS {marks} ("
        "schema text, version text, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), "
        "PRIMARY KEY (schema, version))",
        f"GRANT USAGE ON SCHEMA {MARKS_SCHEMA} TO {name}",
        f"GRANT SELECT, INSERT ON {marks} TO {name}",
    ]
    if not await driver.fetchval("SELECT has_database_privilege($1, current_database(), 'CONNECT')", role):
        statements.append(f"GRANT CONNECT ON DATABASE {database} TO {name}")
    if await driver.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extnamespace = 'public'::regnamespace)"):
        # Functions and operator classes of extensions are found there; its tables are granted to nobody.
        statements.append(f"GRANT USAGE ON SCHEMA public TO {name}")
    for statement in statements:
        await driver.execute(statement)
    remember = f"INSERT INTO {marks} (schema, version, checksum) VALUES ('', '', $1)"  # noqa: S608 - a quoted name.
    await driver.execute(f"{remember} ON CONFLICT (schema, version) DO UPDATE SET checksum = $1", str(attempt))
    return password


async def close_login(connection: AsyncConnection, role: str) -> None:
    """Nobody can log in as `role` any more."""
    driver = await driver_of(connection)
    await driver.execute(f"ALTER ROLE {quoted(role)} NOLOGIN PASSWORD NULL")


async def end_sessions(connection: AsyncConnection, role: str) -> int:
    """End sessions that a killed run of this addon left behind. Returns how many there were."""
    ended = await connection.execute(
        text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE usename = :role AND datname = current_database()"
        ),
        {"role": role},
    )
    return int(ended.scalar_one())


async def copy_marks(connection: AsyncConnection, key: str) -> None:
    """Record what migrations marked before somebody killed us."""
    driver = await driver_of(connection)
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    if await driver.fetchval("SELECT to_regclass($1)", marks) is not None:
        ran = f"SELECT schema, version, $1, checksum, applied_at FROM {marks} WHERE schema <> ''"  # noqa: S608
        columns = "schema, version, addon_key, checksum, applied_at"
        await driver.execute(f"INSERT INTO {RECORDS} ({columns}) {ran} ON CONFLICT (schema, version) DO NOTHING", key)


async def run_migration(
    direct_url: str,
    *,
    role: str,
    password: str,
    schema: str,
    migration: JudgedMigration,
    key: str,
    attempt: int,
    step: str,
    inside: Callable[[], None],
) -> None:
    """Run one migration in one transaction; afterwards it is there as a whole, with its mark, or not at all.

    `inside` is called just before the commit. A migration that is marked already is left alone.

    Raises:
        InstallFailed: a statement failed, or what it left behind breaks the rules of an addon's schema.
        Unavailable: a lock was not given in time; trying again may help.
        Conflict: another attempt to install this addon began.
    """
    url = make_url(direct_url).set(drivername="postgresql", username=role, password=password)
    try:
        connection = await asyncpg.connect(
            url.render_as_string(hide_password=False),
            server_settings=SESSION,
            statement_cache_size=0,
            connection_class=Watched,
        )
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise _superseded(key) from None
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise InstallFailed(f"cannot log in as {role}: {said(error)}", step=step) from error
    try:
        async with connection.transaction():
            if await _begin(connection, schema, migration, key, attempt):
                await _execute(connection, migration, step)
                problems = await findings(connection, schema, role)
                if problems:
                    raise InstallFailed(f"{migration.path} is taken back: {problems[0]}", step=step)
                await _mark(connection, schema, migration, key)
            inside()
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if retryable(error):
            raise Unavailable(f"{step}: {said(error)}") from error
        raise InstallFailed(f"{migration.path}: {said(error)}", step=step) from error
    finally:
        await connection.close(timeout=10)


async def _begin(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, migration: JudgedMigration, key: str, attempt: int
) -> bool:
    """Whether the migration is still to do, and this attempt the one to do it."""
    await connection.execute(
        "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))", lock_text(key)
    )
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    query = f"SELECT checksum FROM {marks} WHERE schema = $1 AND version = $2"  # noqa: S608 - a quoted name.
    current = await connection.fetchval(query, "", "")
    if current != str(attempt):
        raise _superseded(key)
    if await connection.fetchval(query, schema, migration.version) is not None:
        return False
    # The addon's own schema first, then public for extensions, the temporary one last.
    path = f"{quoted(schema)}, public, pg_temp"
    await connection.execute("SELECT pg_catalog.set_config('search_path', $1, true)", path)
    return True


async def _execute(connection: asyncpg.Connection[asyncpg.Record], migration: JudgedMigration, step: str) -> None:
    for statement in migration.statements:
        try:
            await refuse_two(connection, statement.sql)
            await connection.execute(statement.sql)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if retryable(error):
                raise
            place = f"{migration.path}:{statement.line}"
            raise InstallFailed(f"{place}: {spoken(statement.kind)}: {said(error)}", step=step) from error


async def refuse_two(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> None:
    """The server's own parser must see one statement, as ours did: a prepared one cannot hold two."""
    await connection.prepare(statement)


async def _mark(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, migration: JudgedMigration, key: str
) -> None:
    marks = f"{MARKS_SCHEMA}.{quoted(key)}"
    await connection.execute(
        f"INSERT INTO {marks} (schema, version, checksum) VALUES ($1, $2, $3)",  # noqa: S608 - a quoted name.
        schema,
        migration.version,
        migration.checksum,
    )


def _superseded(key: str) -> MetacoreError:
    return Conflict(f"another installation of addon {key!r} began meanwhile", code="superseded")
