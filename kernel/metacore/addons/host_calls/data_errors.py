"""What a save was refused for, in the codes that the contract gives guests."""

from __future__ import annotations

from metacore.dynamic.validation import ConstraintBroken
from metacore.errors import (
    Conflict,
    InvalidInput,
    MetacoreError,
    NotFound,
    PermissionDenied,
    Refused,
    Unavailable,
)
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostError

UNIQUE, FOREIGN_KEY, CHECK, NOT_NULL = "23505", "23503", "23514", "23502"
"""SQLSTATEs of broken constraints."""

_BY_PROBLEM = {"reference": FOREIGN_KEY, "constraint": CHECK}
_KEPT = frozenset({"reserved_column", "unknown_column", "unknown_model", "unknown_sequence"})


def host_error(error: MetacoreError) -> HostError:
    """The envelope's error. What the contract has no word for keeps the kernel's own code.

    Raises:
        PermissionDenied: the operation was not granted; whoever calls records that before the guest hears of it.
    """
    if isinstance(error, PermissionDenied):
        raise error
    if error.code in _KEPT:
        return HostError(error.code, error.message)
    if isinstance(error, InvalidInput):
        return HostError(HostCode.ARG_DECODE, error.message)
    if isinstance(error, NotFound):
        return HostError("not_found", error.message)
    if isinstance(error, Conflict):
        if error.code == "duplicate":
            return HostError(HostCode.CONSTRAINT_VIOLATION, error.message, UNIQUE)
        return HostError(HostCode.SERIALIZATION_FAILURE, error.message)
    if isinstance(error, Refused):
        if error.code == "referenced":
            return HostError(HostCode.CONSTRAINT_VIOLATION, error.message, FOREIGN_KEY)
        if isinstance(error, ConstraintBroken):
            return HostError(HostCode.CONSTRAINT_VIOLATION, error.message, CHECK)
        broken = next((_BY_PROBLEM[problem.code] for problem in error.problems if problem.code in _BY_PROBLEM), "")
        if broken:
            return HostError(HostCode.CONSTRAINT_VIOLATION, error.message, broken)
        return HostError(error.code, error.message)
    if isinstance(error, Unavailable):
        busy = error.code == "database_busy"
        return HostError(HostCode.SERIALIZATION_FAILURE if busy else HostCode.DB_ERROR, error.message)
    return HostError(error.code, error.message)
