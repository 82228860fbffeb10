"""What PostgreSQL said to a guest's statement, in the codes of the contract."""

from __future__ import annotations

import asyncpg

from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostError

MAX_LENGTH = 500

SERIALIZATION = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: trying the whole invocation again may help."""

CODES = {
    "57014": HostCode.QUERY_TIMEOUT,
    "25006": HostCode.FORBIDDEN,
    "42501": HostCode.FORBIDDEN,
}
ROW_SECURITY = "row-level security"
NO_ROLE = frozenset({"22023", "42704"})


def host_error(error: asyncpg.PostgresError) -> HostError:
    """The envelope for `error`. It carries the first line only: the details below it hold values of rows."""
    state = error.sqlstate or ""
    message = str(error).strip().split("\n", 1)[0][:MAX_LENGTH] or type(error).__name__
    if state == "42501" and ROW_SECURITY in message:
        return HostError(HostCode.MISSING_ORG_FILTER, f"the row would not be the organization's own: {message}", state)
    if state == "57014":
        return HostError(HostCode.QUERY_TIMEOUT, "the statement took too long", state)
    if state in CODES:
        return HostError(CODES[state], message, state)
    if state in SERIALIZATION:
        return HostError(HostCode.SERIALIZATION_FAILURE, message, state)
    if state.startswith("23"):
        return HostError(HostCode.CONSTRAINT_VIOLATION, message, state)
    if state.startswith("42"):
        return HostError(HostCode.INVALID_SQL, message, state)
    if state.startswith(("08", "53", "57", "58", "XX")):
        return HostError(HostCode.DB_ERROR, "the database could not run the statement", state)
    return HostError(HostCode.DB_ERROR, message, state)


def no_role(error: asyncpg.PostgresError) -> bool:
    """Whether the guest's role is missing, or not one that the kernel may become."""
    return error.sqlstate in NO_ROLE or (error.sqlstate == "42501" and "set role" in str(error))
