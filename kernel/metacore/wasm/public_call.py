"""Calls into guests through wasmtime-py's public API: the slower path, for versions whose private binding differs.

It cannot ask the supervisor while the guest runs, so a cancelled guest runs on to its deadline. It cannot trap out of a
host function either, so a guest that a host function ended runs on to its next call or its deadline, unserved.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from typing import Any, Final

import wasmtime

from metacore.logs import get_logger
from metacore.wasm.abi import ALLOC_EXPORT, MEMORY_EXPORT, Wasm
from metacore.wasm.calls import (
    GuestCalls,
    GuestStopped,
    HostImport,
    Linked,
    StopKind,
    Supervisor,
    stopped_by_error,
    stopped_by_trap,
)
from metacore.wasm.engine import TICK_SECONDS
from metacore.wasm.limits import MAX_TABLE_ELEMENTS, MAX_TABLES, Limits

log = get_logger(__name__)

_TYPES: Final = {Wasm.I32: wasmtime.ValType.i32, Wasm.I64: wasmtime.ValType.i64}
_MASKS: Final = {Wasm.I32: 0xFFFF_FFFF, Wasm.I64: 0xFFFF_FFFF_FFFF_FFFF}


class _Current(threading.local):
    calls: PublicCalls | None = None


class PublicCalls:
    """See `calls.GuestCalls`."""

    def __init__(
        self,
        path: PublicPath,
        linked: Linked,
        export: str,
        limits: Limits,
        supervisor: Supervisor,
    ) -> None:
        self._path = path
        self._linked = linked
        self._name = export
        self.supervisor = supervisor
        self._exports: dict[str, Any] = {}
        self._store = wasmtime.Store(path.engine)
        self._store.set_limits(limits.memory_bytes, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, 1)
        self._deadline = time.monotonic() + limits.timeout
        self.resume()
        path.current.calls = self

    def instantiate(self) -> None:
        instance = self._guarded(self._linked.pre.instantiate, self._store)
        self._exports = dict(instance.exports(self._store))
        self._export(MEMORY_EXPORT, wasmtime.Memory)

    def bind(self, caller: wasmtime.Caller) -> None:
        if not self._exports:
            self._exports = {name: caller.get(name) for name in (MEMORY_EXPORT, ALLOC_EXPORT)}

    def start(self, name: str) -> None:
        self._guarded(self._export(name, wasmtime.Func), self._store)

    def alloc(self, size: int) -> int:
        pointer: int = self._guarded(self._export(ALLOC_EXPORT, wasmtime.Func), self._store, _signed(size))
        return pointer & _MASKS[Wasm.I32]

    def run(self, pointer: int, length: int) -> int:
        function = self._export(self._name, wasmtime.Func)
        packed: int = self._guarded(function, self._store, _signed(pointer), _signed(length))
        return packed & _MASKS[Wasm.I64]

    def memory(self) -> tuple[int, int]:
        memory = self._exports.get(MEMORY_EXPORT)
        if not isinstance(memory, wasmtime.Memory):
            return 0, 0
        pointer = memory.data_ptr(self._store)
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0, memory.data_len(self._store)

    def halt(self) -> None:
        self._store.set_epoch_deadline(0)

    def resume(self) -> None:
        left = max(0.0, self._deadline - time.monotonic())
        self._store.set_epoch_deadline(math.ceil(left / TICK_SECONDS) + 1)

    def close(self) -> None:
        self._exports = {}
        self._store.close()
        self._path.current.calls = None

    def _export(self, name: str, kind: type) -> Any:
        export = self._exports.get(name)
        if not isinstance(export, kind):
            raise GuestStopped(StopKind.TRAP, f"the module does not export {name!r}")
        return export

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except wasmtime.Trap as trap:
            stopped = stopped_by_trap(trap)
        except wasmtime.WasmtimeError as error:
            stopped = stopped_by_error(str(error))
        except Exception as error:
            # The binding found an exception that another call, or another user of wasmtime, left in its global.
            stopped = GuestStopped(StopKind.TRAP, "trap", type(error).__name__)
        if self.supervisor.stopped:
            stopped.kind = StopKind.INTERRUPTED
        raise stopped


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


class PublicPath:
    """See `calls.CallPath`."""

    name = "public"

    def __init__(self, engine: wasmtime.Engine) -> None:
        self.engine = engine
        self.current = _Current()

    def define(self, linker: wasmtime.Linker, imports: tuple[HostImport, ...]) -> None:
        for host in imports:
            signature = host.signature
            types = wasmtime.FuncType(
                [_TYPES[parameter]() for parameter in signature.parameters],
                [_TYPES[signature.result]()] if signature.result else [],
            )
            linker.define_func(host.module, host.name, types, self._callback(host), access_caller=True)

    def link(self, linker: wasmtime.Linker, module: wasmtime.Module, *, starts: bool) -> Linked:
        return Linked(linker.instantiate_pre(module), 0, starts)

    def open(self, linked: Linked, export: str, limits: Limits, supervisor: Supervisor) -> GuestCalls:
        if self.current.calls is not None:
            raise RuntimeError("a thread runs one guest at a time")
        return PublicCalls(self, linked, export, limits, supervisor)

    def _callback(self, host: HostImport) -> Any:
        masks = [_MASKS[parameter] for parameter in host.signature.parameters]
        answers = host.signature.result is not None

        def callback(caller: wasmtime.Caller, *arguments: int) -> int | None:
            calls = self.current.calls
            assert calls is not None
            value: int | None = None
            if calls.supervisor.stopped:
                return 0 if answers else None
            try:
                calls.bind(caller)
                value = host.function(
                    calls.supervisor, *[value & mask for value, mask in zip(arguments, masks, strict=True)]
                )
            except BaseException:
                log.exception("wasm.host_function_raised", function=host.name)
                calls.supervisor.stopped = True
            if calls.supervisor.stopped:
                calls.halt()
            return (value or 0) if answers else None

        return callback
