"""Failures that are the database's: it is away, or did not answer in time. Neither the caller's fault nor a bug."""

from __future__ import annotations

import sqlite3
import traceback
from typing import Final

import asyncpg
import sqlalchemy as sa

from metacore.errors import Unavailable

LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""What a statement raises when its connection is gone, and whether it took effect is unknown. `TimeoutError` is an
OSError, too."""

NOT_NOW: Final = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.InsufficientResourcesError)

DRIVERS: Final = ("asyncpg", "sqlalchemy", "metacore.db")
"""Packages through which an OSError of the database comes: other code has sockets, files and time limits as well."""

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def unreachable() -> Unavailable:
    return Unavailable("the database cannot be reached right now", code="database_unreachable")


def busy() -> Unavailable:
    return Unavailable("the database did not answer in time", code="database_busy")


def fault_of(error: BaseException) -> Unavailable | None:
    """What to tell the caller of `error`, by a driver or by SQLAlchemy; None when the database is not to blame."""
    if isinstance(error, sa.exc.TimeoutError):
        return busy()  # No connection of the pool became free.
    cause = error.driver_exception if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, NOT_NOW):
        return busy()
    if isinstance(cause, sqlite3.OperationalError) and cause.sqlite_errorcode in _LOCKED:
        return busy()
    if isinstance(cause, asyncpg.InterfaceError) and "clos" not in str(cause):
        return None  # Not "is closed" or "is closing": a connection was used as it must not be.
    if isinstance(cause, OSError) and cause is error and not _of_driver(error):
        return None
    return unreachable() if isinstance(cause, LOST) else None


def _of_driver(error: BaseException) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__", "").startswith(DRIVERS) for frame in frames)
