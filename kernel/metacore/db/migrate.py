"""The kernel's own tables: bringing a database to this build's head, and asking where it is."""

from __future__ import annotations

import functools
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db import locks
from metacore.db.database import Database
from metacore.db.grants import VERSION_TABLE, kernel_grants
from metacore.db.roles import KERNEL_ROLE
from metacore.errors import Misconfigured, Unavailable

WAIT_FOR_OTHERS = "SET LOCAL lock_timeout = '300s'"
LIMITS = ("SET LOCAL lock_timeout = '10s'", "SET LOCAL statement_timeout = '600s'")
"""A statement that waits for a lock makes every later query wait behind it: better to give up and be run again."""


async def migrate(owner_url: str, *, kernel_role: str = KERNEL_ROLE) -> str:
    """Bring the database to this build's head as its owner, give `kernel_role` its rights, return the revision.

    All of it is one transaction under an advisory lock, so several may call it at once. A database that is ahead of
    this build (a rollback of the program) is left as it is. When the owner itself is `kernel_role`, as when a host
    embeds the kernel on one role, there are no rights to give.

    Raises:
        Misconfigured: the database cannot be reached, `kernel_role` does not exist, or the login may not do DDL.
        Unavailable: a lock was not given in time; nothing was changed, try again.
    """
    database = Database(owner_url, pool_size=1, application_name="metacore-migrate")
    try:
        return await _migrate(database, kernel_role)
    except OSError as error:
        raise Misconfigured(f"cannot reach the database {database.shown_url}: {error}") from error
    finally:
        await database.close()


async def create_all(database: Database) -> None:
    """Make the kernel's tables through `database` itself, for development and embedding on one role or on SQLite.

    The result is what `migrate` makes, at the same revision, without a kernel role.
    """
    await _migrate(database, None)


def head_revision() -> str:
    """The revision that this build's tables have."""
    head = ScriptDirectory.from_config(_configuration()).get_current_head()
    if head is None:
        raise Misconfigured(f"no migrations in {migrations_folder()}")
    return head


async def current_revision(database: Database) -> str | None:
    """The revision of the database, None for one without our tables. The kernel role may ask."""
    async with database.transaction(None) as connection:
        return await _current(connection)


def suffices(revision: str | None) -> bool:
    """Whether a database at `revision` has what this build needs: its head, or one beyond (tables only expand)."""
    return revision is not None and revision >= head_revision()


@functools.cache
def migrations_folder() -> Path:
    """`metacore/_migrations` in an installed package, `migrations` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise Misconfigured("the migrations are missing from this installation of metacore")


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    configuration.attributes["version_table"] = VERSION_TABLE
    return configuration


async def _migrate(database: Database, kernel_role: str | None) -> str:
    try:
        async with database.transaction(None) as connection:
            if database.dialect == "postgresql":
                await _begin(connection, kernel_role)
            else:
                # Python would begin a transaction only before the first INSERT: DDL before it could be left half done.
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            revision = await _current(connection)
            if revision is not None and suffices(revision) and revision != head_revision():
                return revision
            await connection.run_sync(_upgrade)
            if kernel_role is not None and kernel_role != await connection.scalar(text("SELECT current_user")):
                for statement in kernel_grants(kernel_role):
                    await connection.exec_driver_sql(statement)
            return head_revision()
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", "") or ""
        if state in ("55P03", "57014"):  # lock_not_available, query_canceled by statement_timeout
            raise Unavailable(f"the migration of {database.shown_url} waited too long for a lock: try again") from error
        if state in ("42501", "28000", "28P01", "3D000"):
            raise Misconfigured(f"cannot migrate {database.shown_url}: {error.orig}") from error
        raise


async def _begin(connection: AsyncConnection, kernel_role: str | None) -> None:
    await connection.exec_driver_sql(WAIT_FOR_OTHERS)
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": locks.MIGRATION})
    for limit in LIMITS:
        await connection.exec_driver_sql(limit)
    if kernel_role is not None:
        found = await connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": kernel_role})
        if found is None:
            raise Misconfigured(f"the database role {kernel_role!r} does not exist: make it first (docs/database.md)")


def _upgrade(connection: Connection) -> None:
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


async def _current(connection: AsyncConnection) -> str | None:
    if not await connection.run_sync(lambda sync: sync.dialect.has_table(sync, VERSION_TABLE)):
        return None
    revision = await connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant.
    return None if revision is None else str(revision)
