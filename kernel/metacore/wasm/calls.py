"""The seam between a guest and the binding that calls it; `fast_call` and `public_call` implement it.

All methods of a `GuestCalls` belong to one thread. Pointers and lengths are unsigned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import wasmtime

from metacore.errors import Refused
from metacore.wasm.abi import Signature
from metacore.wasm.limits import Limits

TRAP_MESSAGES: Final = {
    wasmtime.TrapCode.STACK_OVERFLOW: "call stack exhausted",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "out of bounds memory access",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "undefined element: out of bounds table access",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "uninitialized element",
    wasmtime.TrapCode.BAD_SIGNATURE: "indirect call type mismatch",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "integer overflow",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "integer divide by zero",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "invalid conversion to integer",
    wasmtime.TrapCode.UNREACHABLE: "the guest gave up (unreachable)",
}
_MAX_DETAIL: Final = 4_000


class StopKind(Enum):
    TRAP = auto()
    INTERRUPTED = auto()
    """The supervisor, or the deadline, ended it."""
    LIMIT = auto()
    """It wanted more memory or table than its limits allow before it ran."""


class GuestStopped(Refused):
    """A call into the guest did not return. Never leaves this room."""

    code = "guest_stopped"

    def __init__(self, kind: StopKind, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.detail = detail[:_MAX_DETAIL]


class Supervisor(Protocol):
    """Who decides how long a guest runs, and whom its host functions serve."""

    stopped: bool
    """Whether the guest must not run on: the host function that is under way then ends it."""

    def ticks(self) -> int:
        """How many ticks of the engine the guest may run until it is asked again; 0 ends it."""


class GuestCalls(Protocol):
    """One store with one instance."""

    def instantiate(self) -> None:
        """Make the instance and run its start function.

        Raises:
            GuestStopped: it trapped, or does not fit into its limits.
        """

    def start(self, name: str) -> None:
        """Call the export `name`, which takes and gives nothing. Raises GuestStopped."""

    def alloc(self, size: int) -> int:
        """A pointer to `size` bytes, as the guest says. Raises GuestStopped."""

    def run(self, pointer: int, length: int) -> int:
        """Call the export; the packed reply. Raises GuestStopped."""

    def memory(self) -> tuple[int, int]:
        """Address and size of the guest's memory right now; it moves whenever the guest runs. (0, 0) without one."""

    def halt(self) -> None:
        """Let the guest end at its next call; called by a host function."""

    def resume(self) -> None:
        """Let calls run again after a `halt`, up to the old deadline."""

    def close(self) -> None:
        """Free the store. Nothing else may be called afterwards."""


HostFunction = Callable[..., int | None]
"""Gets the supervisor of the calling guest and the arguments as unsigned integers. It must not raise: an exception
would end the guest without a reason."""


@dataclass(frozen=True, slots=True)
class HostImport:
    """A function that guests may import."""

    module: str
    name: str
    signature: Signature
    function: HostFunction


@dataclass(frozen=True, slots=True)
class Linked:
    """A compiled module with its imports resolved. `handle` is the address of `pre` in the engine's library.

    `starts` tells whether guest code runs while an instance is made.
    """

    pre: wasmtime.InstancePre
    handle: int
    starts: bool


class CallPath(Protocol):
    """One way to call guests."""

    name: str

    def define(self, linker: wasmtime.Linker, imports: tuple[HostImport, ...]) -> None: ...

    def link(self, linker: wasmtime.Linker, module: wasmtime.Module, *, starts: bool) -> Linked:
        """Raises wasmtime.WasmtimeError when an import is not defined or has another type."""

    def open(self, linked: Linked, export: str, limits: Limits, supervisor: Supervisor) -> GuestCalls:
        """A store for one invocation of `export`; '' when only `alloc` will be called."""


def stopped_by_trap(trap: wasmtime.Trap) -> GuestStopped:
    """What `trap` says, in words that are the same for both paths."""
    try:
        code, detail = trap.trap_code, str(trap)
    except ValueError:  # A code that the binding does not know, or names in the backtrace that are no text.
        code, detail = None, ""
    if code is wasmtime.TrapCode.INTERRUPT:
        return GuestStopped(StopKind.INTERRUPTED, "interrupted", detail)
    return GuestStopped(StopKind.TRAP, TRAP_MESSAGES.get(code, "trap") if code else "trap", detail)


def stopped_by_error(text: str) -> GuestStopped:
    """What an error of the engine without a trap says: a limit at instantiation, or a call that does not fit."""
    if "exceeds memory limits" in text or "exceeds table limits" in text or "resource limit exceeded" in text:
        return GuestStopped(StopKind.LIMIT, "the module needs more memory than its limit", text)
    return GuestStopped(StopKind.TRAP, "the guest could not be called", text)
