"""What a database said when a step failed, and whether trying again may help."""

from __future__ import annotations

import asyncpg
from sqlalchemy.exc import DBAPIError

RETRYABLE = frozenset(
    {
        "55P03",  # lock_not_available: lock_timeout ran out.
        "40P01",  # deadlock_detected
        "40001",  # serialization_failure
        "55006",  # object_in_use
    }
)
TRANSIENT = (
    "database is locked",  # SQLite
    "tuple concurrently updated",  # Two statements about one row of a catalog, such as GRANT beside ALTER TABLE.
)
MAX_LENGTH = 500


def driver_error(error: BaseException) -> BaseException:
    """The driver's own exception below SQLAlchemy's."""
    while isinstance(error, DBAPIError) and isinstance(error.orig, BaseException):
        error = error.orig.__cause__ or error.orig
    return error


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code of an error, '' for other databases."""
    below = driver_error(error)
    return below.sqlstate or "" if isinstance(below, asyncpg.PostgresError) else ""


def said(error: BaseException) -> str:
    """The first line of what the database said; the details below it may hold values of rows.

    Errors of data (class 22) quote the value already there: `invalid input syntax for type integer: "…"`.
    """
    text = str(driver_error(error)).strip().split("\n", 1)[0]
    if sqlstate(error).startswith("22"):
        text = text.split(': "', 1)[0]
    return text[:MAX_LENGTH] or type(error).__name__


def retryable(error: BaseException) -> bool:
    below = driver_error(error)
    if sqlstate(error) in RETRYABLE:
        return True
    return any(words in str(below) for words in TRANSIENT)
