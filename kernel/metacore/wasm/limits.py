"""How much an invocation, a host call and a module may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from metacore.manifest.parts import Backend
from metacore.manifest.runtime import GUEST_MEMORY_MB, GUEST_TIMEOUT_MS

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_MODULE_BYTES: Final = 32 * MIB
"""A Go program with the usual libraries has 3 to 10 MiB."""

MAX_SQL_BYTES: Final = 16 * KIB
MAX_JUDGED_SQL: Final = 64 * KIB
"""Characters of statements that were not known yet, per invocation."""
MAX_SQL_ARGUMENTS: Final = 64
MAX_DB_EXEC_CALLS: Final = 32
MAX_BATCH: Final = 100
MAX_HOST_REPLY_BYTES: Final = 8 * MIB
MAX_HOST_REQUEST_BYTES: Final = 4 * MIB
MAX_NAME_BYTES: Final = 512
"""Keys of settings and connectors, HTTP methods, names of events."""
MAX_URL_BYTES: Final = 8 * KIB
MAX_LOG_LINE_BYTES: Final = 8 * KIB
MAX_LOG_LINES: Final = 1_000
"""Per invocation, `log` and standard output together; what comes after is dropped, and the last line says so."""

MAX_WASM_STACK_BYTES: Final = 1 * MIB
THREAD_STACK_BYTES: Final = 8 * MIB
"""Of every thread that runs guests. The engine counts only the guest's own stack, and host functions run on top of it;
in a thread with less, deep recursion would not trap but take the process down."""
MAX_TABLE_ELEMENTS: Final = 200_000
MAX_TABLES: Final = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one invocation. `timeout` is in seconds from the moment the guest starts, host calls included."""

    memory_bytes: int = 64 * MIB
    timeout: float = 10.0
    request_bytes: int = 4 * MIB
    reply_bytes: int = 4 * MIB


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What no manifest may exceed in this installation."""

    memory_bytes: int = GUEST_MEMORY_MB * MIB
    timeout: float = GUEST_TIMEOUT_MS / 1000


def limits_of(backend: Backend, ceiling: Ceiling | None = None) -> Limits:
    """What the manifest asks for, at most the ceiling."""
    ceiling = ceiling or Ceiling()
    return Limits(
        memory_bytes=min(max(backend.memory_limit_mb, 1) * MIB, ceiling.memory_bytes),
        timeout=min(max(backend.timeout_ms, 1) / 1000, ceiling.timeout),
    )
