"""Names, codes and shapes of the guest ABI 1.7 (contract 12). No engine here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

ABI_VERSION: Final = "1.7"
HOST_MODULE: Final = "metacore_host"
MEMORY_EXPORT: Final = "memory"
ALLOC_EXPORT: Final = "alloc"
INITIALIZERS: Final = ("_initialize", "_start")
"""What a runtime wants called once before its functions work: reactors export the first, commands the second."""

PAGE_BYTES: Final = 65_536
_LOW_32: Final = 0xFFFF_FFFF


class Wasm(StrEnum):
    """Value types that cross the border."""

    I32 = "i32"
    I64 = "i64"


@dataclass(frozen=True, slots=True)
class Signature:
    """Parameters and result of a function; `result` is None for none."""

    parameters: tuple[Wasm, ...] = ()
    result: Wasm | None = None

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> {self.result or '()'}"


ALLOC_SIGNATURE: Final = Signature((Wasm.I32,), Wasm.I32)
EXPORT_SIGNATURE: Final = Signature((Wasm.I32, Wasm.I32), Wasm.I64)
INITIALIZER_SIGNATURE: Final = Signature()


class FailureCode(StrEnum):
    """Why an invocation has no reply of its guest."""

    RUNTIME_ERROR = "runtime_error"
    """A trap, a stack overflow, an exit, a pointer outside the memory, an `alloc` that lies."""
    TIMEOUT = "timeout"
    MEMORY_EXHAUSTED = "memory_exhausted"
    INVALID_REPLY = "invalid_reply"
    """The reply is not JSON."""
    PAYLOAD_TOO_LARGE = "payload_too_large"
    """The request or the reply exceeds the limit of its kind."""
    CANCELLED = "cancelled"
    """The caller went away; nobody reads this."""


class HostCode(StrEnum):
    """`error.code` of an envelope that a host function answers with."""

    INVALID_SQL = "invalid_sql"
    ARG_COUNT_MISMATCH = "arg_count_mismatch"
    ARG_DECODE = "arg_decode"
    FORBIDDEN = "forbidden"
    MISSING_ORG_FILTER = "missing_org_filter"
    QUERY_TIMEOUT = "query_timeout"
    ROW_LIMIT_EXCEEDED = "row_limit_exceeded"
    CONSTRAINT_VIOLATION = "constraint_violation"
    SERIALIZATION_FAILURE = "serialization_failure"
    DB_ERROR = "db_error"
    NO_ACTIVE_TX = "no_active_tx"
    DB_EXEC_LIMIT_EXCEEDED = "db_exec_limit_exceeded"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    INTERNAL_ERROR = "internal_error"
    """Ours, beyond the contract's list: something broke in the host; the log has the details, the guest gets none."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`message` may be shown to the caller; `detail` (the guest's backtrace) belongs into logs."""

    code: FailureCode
    message: str
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"error": {"code": self.code.value, "message": self.message}}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one invocation.

    `value` is the parsed JSON of the reply, None for the empty one; `raw` the same as bytes. With a `failure` both are
    empty. `seconds` is the time in the worker thread, `memory_bytes` the size of the guest's memory at the end.
    """

    value: Any = None
    raw: bytes = b""
    failure: Failure | None = None
    seconds: float = 0.0
    memory_bytes: int = 0
    host_calls: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the guest says success: an empty reply does, an object does unless it says otherwise."""
        if self.failure is not None:
            return False
        if isinstance(self.value, dict):
            return self.value.get("success", "error" not in self.value) is True
        return True

    def as_json(self) -> Any:
        """The reply as the caller of an export sees it: the guest's, or `{"error": {code, message}}`."""
        return self.value if self.failure is None else self.failure.as_json()


def pack(pointer: int, length: int) -> int:
    return (pointer << 32) | length


def unpack(packed: int) -> tuple[int, int]:
    """Pointer and length, both unsigned, whatever the sign that the engine gave `packed`."""
    return (packed >> 32) & _LOW_32, packed & _LOW_32
