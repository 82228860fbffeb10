"""Calls into guests through the private binding of wasmtime-py, with arguments that are allocated once per thread.

The public `Func.__call__` rebuilds types and arguments at each call and runs host functions through a trampoline that
keeps exceptions in a module global, where another thread can meet them. This path calls the same checked functions of
the C API (`wasmtime_func_call`, `wasmtime_linker_define_func`) directly. Nothing else in the project touches the
private binding; `call_paths` checks the version and tests this path before anybody relies on it.

Functions that return at once are called with the interpreter lock held: giving it up would cost a busy process up to
its switch interval (5 ms) each time. Whatever may run guest code or unmap much memory is called without the lock.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi

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
from metacore.wasm.limits import MAX_TABLE_ELEMENTS, MAX_TABLES, MIB, Limits

log = get_logger(__name__)

_held = ctypes.PyDLL(str(ffi.filename))
_released = ctypes.CDLL(str(ffi.filename))
_P: Final = ctypes.c_void_p
_SIZE: Final = ctypes.c_size_t
_I64: Final = ctypes.c_int64


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


_store_new = _function(_held, "wasmtime_store_new", _P, _P, _P, _P)
_store_context = _function(_held, "wasmtime_store_context", _P, _P)
_store_limiter = _function(_held, "wasmtime_store_limiter", None, _P, _I64, _I64, _I64, _I64, _I64)
_store_delete_small = _function(_held, "wasmtime_store_delete", None, _P)
_store_delete = _function(_released, "wasmtime_store_delete", None, _P)
_deadline_callback = _function(_held, "wasmtime_store_epoch_deadline_callback", None, _P, _P, _P, _P)
_set_deadline = _function(_held, "wasmtime_context_set_epoch_deadline", None, _P, ctypes.c_uint64)
_instantiate_quick = _function(_held, "wasmtime_instance_pre_instantiate", _P, _P, _P, _P, _P)
_instantiate = _function(_released, "wasmtime_instance_pre_instantiate", _P, _P, _P, _P, _P)
_export_get = _function(_held, "wasmtime_instance_export_get", ctypes.c_bool, _P, _P, ctypes.c_char_p, _SIZE, _P)
_caller_export_get = _function(_held, "wasmtime_caller_export_get", ctypes.c_bool, _P, ctypes.c_char_p, _SIZE, _P)
_call = _function(_released, "wasmtime_func_call", _P, _P, _P, _P, _SIZE, _P, _SIZE, _P)
_memory_data = _function(_held, "wasmtime_memory_data", _P, _P, _P)
_memory_size = _function(_held, "wasmtime_memory_data_size", _SIZE, _P, _P)
_trap_new = _function(_held, "wasmtime_trap_new_code", _P, ctypes.c_uint8)
_error_new = _function(_held, "wasmtime_error_new", _P, ctypes.c_char_p)
_define_func = _function(
    _held, "wasmtime_linker_define_func", _P, _P, ctypes.c_char_p, _SIZE, ctypes.c_char_p, _SIZE, _P, _P, _P, _P
)

_HostCallback = ctypes.CFUNCTYPE(_SIZE, _P, _P, _P, _SIZE, _P, _SIZE)
_DeadlineCallback = ctypes.CFUNCTYPE(_SIZE, _P, _P, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint8))
_CONTINUE: Final = 0
"""WASMTIME_UPDATE_DEADLINE_CONTINUE"""

_VALUE_SIZE: Final = ctypes.sizeof(ffi.wasmtime_val_t)
_VALUE_AT: Final[int] = ffi.wasmtime_val_t.of.offset
_EXTERN_AT: Final[int] = ffi.wasmtime_extern_t.of.offset
_KINDS: Final = {Wasm.I32: ffi.WASMTIME_I32.value, Wasm.I64: ffi.WASMTIME_I64.value}
_UNSIGNED: Final[dict[Wasm, Any]] = {Wasm.I32: ctypes.c_uint32, Wasm.I64: ctypes.c_uint64}
_TYPES: Final = {Wasm.I32: wasmtime.ValType.i32, Wasm.I64: wasmtime.ValType.i64}
_FUNCTION: Final = ffi.WASMTIME_EXTERN_FUNC.value
_MEMORY: Final = ffi.WASMTIME_EXTERN_MEMORY.value
_INTERRUPT: Final[int] = wasmtime.TrapCode.INTERRUPT.value
_SMALL_MEMORY: Final = 1 * MIB


def address(managed: Any) -> int:
    """Where the native object behind a wasmtime object lives."""
    return ctypes.cast(managed.ptr(), _P).value or 0


class _Cells(ctypes.Structure):
    """Everything that the library writes into. `alloc` has cells of its own: it runs while an export is under way."""

    _fields_ = (
        ("instance", ffi.wasmtime_instance_t),
        ("memory", ffi.wasmtime_extern_t),
        ("alloc", ffi.wasmtime_extern_t),
        ("export", ffi.wasmtime_extern_t),
        ("arguments", ffi.wasmtime_val_t * 2),
        ("result", ffi.wasmtime_val_t),
        ("trap", _P),
        ("alloc_argument", ffi.wasmtime_val_t),
        ("alloc_result", ffi.wasmtime_val_t),
        ("alloc_trap", _P),
    )


class _Scratch(threading.local):
    """The cells of one thread, their addresses, and the guest that runs in it."""

    def __init__(self) -> None:
        self.calls: FastCalls | None = None
        self.cells = cells = _Cells()
        base = ctypes.addressof(cells)

        def at(field: str) -> int:
            return base + int(getattr(_Cells, field).offset)

        self.instance, self.memory, self.alloc, self.export = at("instance"), at("memory"), at("alloc"), at("export")
        self.arguments, self.result, self.trap = at("arguments"), at("result"), at("trap")
        self.alloc_argument, self.alloc_result, self.alloc_trap = (
            at("alloc_argument"),
            at("alloc_result"),
            at("alloc_trap"),
        )
        i32 = ctypes.c_uint32.from_address
        self.first = i32(self.arguments + _VALUE_AT)
        self.second = i32(self.arguments + _VALUE_SIZE + _VALUE_AT)
        self.packed = ctypes.c_uint64.from_address(self.result + _VALUE_AT)
        self.size = i32(self.alloc_argument + _VALUE_AT)
        self.pointer = i32(self.alloc_result + _VALUE_AT)
        for value in (cells.arguments[0], cells.arguments[1], cells.alloc_argument):
            value.kind = _KINDS[Wasm.I32]


class FastCalls:
    """See `calls.GuestCalls`."""

    __slots__ = ("_bound", "_context", "_linked", "_name", "_scratch", "_store", "supervisor")

    def __init__(
        self, path: FastPath, linked: Linked, export: str, limits: Limits, supervisor: Supervisor, scratch: _Scratch
    ) -> None:
        self._scratch = scratch
        self._linked = linked
        self._name = export.encode()
        self.supervisor = supervisor
        self._bound = False
        self._store = store = _store_new(path.engine_address, None, None)
        self._context = _store_context(store)
        _store_limiter(store, limits.memory_bytes, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, 1)
        _deadline_callback(store, path.deadline_address, None, None)
        _set_deadline(self._context, supervisor.ticks())
        scratch.calls = self

    def instantiate(self) -> None:
        scratch = self._scratch
        instantiate = _instantiate if self._linked.starts else _instantiate_quick
        error = instantiate(self._linked.handle, self._context, scratch.instance, scratch.trap)
        if error or scratch.cells.trap:
            raise self._stopped(error, "trap")
        for name, cell, kind in (
            (MEMORY_EXPORT.encode(), scratch.memory, _MEMORY),
            (ALLOC_EXPORT.encode(), scratch.alloc, _FUNCTION),
            (self._name, scratch.export, _FUNCTION),
        ):
            if name:
                self._export(name, cell, kind)
        self._bound = True

    def _export(self, name: bytes, cell: int, kind: int) -> None:
        found = _export_get(self._context, self._scratch.instance, name, len(name), cell)
        # The kind decides how the library reads the cell, so a wrong one must never get there.
        if not found or ctypes.c_uint8.from_address(cell).value != kind:
            raise GuestStopped(StopKind.TRAP, f"the module does not export {name.decode()!r}")

    def bind(self, caller: int) -> None:
        """Find memory and `alloc` for a host function that the start function calls: there is no instance yet."""
        if self._bound:
            return
        for name, cell, kind in (
            (MEMORY_EXPORT.encode(), self._scratch.memory, _MEMORY),
            (ALLOC_EXPORT.encode(), self._scratch.alloc, _FUNCTION),
        ):
            found = _caller_export_get(caller, name, len(name), cell)
            if not found or ctypes.c_uint8.from_address(cell).value != kind:
                raise GuestStopped(StopKind.TRAP, f"the module does not export {name.decode()!r}")
        self._bound = True

    def start(self, name: str) -> None:
        scratch = self._scratch
        cell = ffi.wasmtime_extern_t()
        self._export(name.encode(), ctypes.addressof(cell), _FUNCTION)
        function = ctypes.addressof(cell) + _EXTERN_AT
        error = _call(self._context, function, None, 0, None, 0, scratch.trap)
        if error or scratch.cells.trap:
            raise self._stopped(error, "trap")

    def alloc(self, size: int) -> int:
        scratch = self._scratch
        scratch.size.value = size
        error = _call(
            self._context,
            scratch.alloc + _EXTERN_AT,
            scratch.alloc_argument,
            1,
            scratch.alloc_result,
            1,
            scratch.alloc_trap,
        )
        if error or scratch.cells.alloc_trap:
            raise self._stopped(error, "alloc_trap")
        return scratch.pointer.value

    def run(self, pointer: int, length: int) -> int:
        scratch = self._scratch
        scratch.first.value = pointer
        scratch.second.value = length
        error = _call(self._context, scratch.export + _EXTERN_AT, scratch.arguments, 2, scratch.result, 1, scratch.trap)
        if error or scratch.cells.trap:
            raise self._stopped(error, "trap")
        return scratch.packed.value

    def memory(self) -> tuple[int, int]:
        if not self._bound:
            return 0, 0
        cell = self._scratch.memory + _EXTERN_AT
        return _memory_data(self._context, cell) or 0, _memory_size(self._context, cell)

    def halt(self) -> None:
        _set_deadline(self._context, 0)

    def resume(self) -> None:
        _set_deadline(self._context, self.supervisor.ticks())

    def close(self) -> None:
        _, size = self.memory()
        (_store_delete_small if size <= _SMALL_MEMORY else _store_delete)(self._store)
        self._bound = False
        self._scratch.calls = None

    def _stopped(self, error: int | None, trap_field: str) -> GuestStopped:
        trap_address = getattr(self._scratch.cells, trap_field)
        setattr(self._scratch.cells, trap_field, None)
        if trap_address:
            pointer = ctypes.cast(trap_address, ctypes.POINTER(ffi.wasm_trap_t))
            stopped = stopped_by_trap(wasmtime.Trap._from_ptr(pointer))
        else:
            assert error is not None
            failure = ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t))
            stopped = stopped_by_error(str(wasmtime.WasmtimeError._from_ptr(failure)))
        if self.supervisor.stopped:
            stopped.kind = StopKind.INTERRUPTED
        return stopped


class FastPath:
    """See `calls.CallPath`."""

    name = "fast"

    def __init__(self, engine: wasmtime.Engine) -> None:
        self.engine_address = address(engine)
        self._engine = engine
        self._scratch = _Scratch()
        self._callbacks: list[Any] = []
        self._on_deadline = _DeadlineCallback(self._deadline)
        self.deadline_address = ctypes.cast(self._on_deadline, _P).value

    def define(self, linker: wasmtime.Linker, imports: tuple[HostImport, ...]) -> None:
        for host in imports:
            callback = self._callback(host)
            self._callbacks.append(callback)  # The library keeps only the address.
            signature = host.signature
            types = wasmtime.FuncType(
                [_TYPES[parameter]() for parameter in signature.parameters],
                [_TYPES[signature.result]()] if signature.result else [],
            )
            module, name = host.module.encode(), host.name.encode()
            error = _define_func(
                address(linker), module, len(module), name, len(name), address(types), callback, None, None
            )
            if error:
                failure = ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t))
                raise wasmtime.WasmtimeError._from_ptr(failure)

    def link(self, linker: wasmtime.Linker, module: wasmtime.Module, *, starts: bool) -> Linked:
        pre = linker.instantiate_pre(module)
        return Linked(pre, address(pre), starts)

    def open(self, linked: Linked, export: str, limits: Limits, supervisor: Supervisor) -> GuestCalls:
        scratch = self._scratch
        if scratch.calls is not None:
            raise RuntimeError("a thread runs one guest at a time")
        return FastCalls(self, linked, export, limits, supervisor, scratch)

    def _callback(self, host: HostImport) -> Any:
        """The C function behind an import. An exception would go to the hook of unraisable ones and the guest on, with
        whatever the result slot held: so none gets out, and the guest ends."""
        scratch = self._scratch
        function = host.function
        readers = [
            (_UNSIGNED[parameter].from_address, index * _VALUE_SIZE + _VALUE_AT)
            for index, parameter in enumerate(host.signature.parameters)
        ]
        result = host.signature.result
        kind = _KINDS[result] if result else 0
        write: Any = _UNSIGNED[result].from_address if result else None
        write_kind = ctypes.c_uint8.from_address

        def callback(_env: int, caller: int, arguments: int, _count: int, results: int, _results: int) -> int:
            calls = scratch.calls
            assert calls is not None
            if calls.supervisor.stopped:
                return _trap_new(_INTERRUPT)  # type: ignore[no-any-return]
            try:
                calls.bind(caller)
                value = function(calls.supervisor, *[read(arguments + offset).value for read, offset in readers])
                if write is not None:
                    write_kind(results).value = kind
                    write(results + _VALUE_AT).value = value
                if not calls.supervisor.stopped:
                    return 0
            except BaseException:
                calls.supervisor.stopped = True
                log.exception("wasm.host_function_raised", function=host.name)
            return _trap_new(_INTERRUPT)  # type: ignore[no-any-return]

        return _HostCallback(callback)

    def _deadline(self, _context: int, _data: int, delta: Any, kind: Any) -> int:
        calls = self._scratch.calls
        assert calls is not None
        try:
            ticks = calls.supervisor.ticks()
            if ticks > 0:
                delta[0] = ticks
                kind[0] = _CONTINUE
                return 0
        except BaseException:
            calls.supervisor.stopped = True
            log.exception("wasm.supervisor_raised")
        return _error_new(b"stopped")  # type: ignore[no-any-return]
