"""WASI preview 1 for guests that bring a runtime along: clocks, randomness, output, sleep and exit, and nothing else.

There are no files, no network and no environment to open, because nothing here can open any: every path and every
descriptor beyond standard input, output and error is a bad one. The engine's own WASI is not used: its `poll_oneoff`
sleeps where no deadline reaches it, and its surface is large. Signatures and layouts are those of
`wasi_snapshot_preview1`.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from metacore.logs import get_logger
from metacore.wasm.abi import FailureCode, Signature, Wasm
from metacore.wasm.calls import GuestStopped, HostImport
from metacore.wasm.guest import Guest
from metacore.wasm.limits import KIB

log = get_logger(__name__)

WASI_MODULE: Final = "wasi_snapshot_preview1"
ARGUMENTS: Final = (b"addon",)
"""What the guest sees as its command line: the same for every call."""

SUCCESS: Final = 0
BAD_DESCRIPTOR: Final = 8
FAULT: Final = 21
INVALID: Final = 28
ILLEGAL_SEEK: Final = 70

_STANDARD: Final = range(3)
_CHARACTER_DEVICE: Final = 2
_RIGHT_READ: Final = 1 << 1
_RIGHT_WRITE: Final = 1 << 6
_REALTIME: Final = 0
_CLOCKS: Final = range(4)
_SUBSCRIPTION: Final = struct.Struct("<QB7xI4xQQH6x")
_EVENT: Final = struct.Struct("<QHB5xQH6x")
_CLOCK_EVENT: Final = 0
_ABSOLUTE: Final = 1
_MAX_VECTORS: Final = 1_024
_MAX_OUTPUT: Final = 64 * KIB
"""Of one write; the rest is swallowed. Vectors may overlap, so that little memory could claim to be a lot of output."""
_RANDOM_CHUNK: Final = 64 * KIB
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

WasiFunction = Callable[..., int]
"""Gets the guest and the arguments; gives an errno. A `GuestStopped` that it raises becomes FAULT."""


def _args_sizes_get(guest: Guest, count_at: int, size_at: int) -> int:
    guest.write(count_at, _U32.pack(len(ARGUMENTS)))
    guest.write(size_at, _U32.pack(sum(len(argument) + 1 for argument in ARGUMENTS)))
    return SUCCESS


def _args_get(guest: Guest, pointers_at: int, buffer_at: int) -> int:
    for argument in ARGUMENTS:
        guest.write(pointers_at, _U32.pack(buffer_at))
        guest.write(buffer_at, argument + b"\0")
        pointers_at += 4
        buffer_at += len(argument) + 1
    return SUCCESS


def _environ_sizes_get(guest: Guest, count_at: int, size_at: int) -> int:
    guest.write(count_at, _U32.pack(0))
    guest.write(size_at, _U32.pack(0))
    return SUCCESS


def _environ_get(_guest: Guest, _pointers_at: int, _buffer_at: int) -> int:
    return SUCCESS


def _now(guest: Guest, clock: int) -> int:
    """Nanoseconds. The monotonic clock begins with the call, so that it tells nothing about this machine."""
    return time.time_ns() if clock == _REALTIME else time.monotonic_ns() - guest.started_ns + 1


def _clock_time_get(guest: Guest, clock: int, _precision: int, at: int) -> int:
    if clock not in _CLOCKS:
        return INVALID
    guest.write(at, _U64.pack(_now(guest, clock)))
    return SUCCESS


def _clock_res_get(guest: Guest, clock: int, at: int) -> int:
    if clock not in _CLOCKS:
        return INVALID
    guest.write(at, _U64.pack(1_000))
    return SUCCESS


def _random_get(guest: Guest, at: int, length: int) -> int:
    while length and not guest.stopped:
        chunk = os.urandom(min(length, _RANDOM_CHUNK))
        guest.write(at, chunk)
        at += len(chunk)
        length -= len(chunk)
        guest.ticks()
    return SUCCESS


def _sched_yield(_guest: Guest) -> int:
    return SUCCESS


def _standard_only(_guest: Guest, descriptor: int, *_rest: int) -> int:
    return SUCCESS if descriptor in _STANDARD else BAD_DESCRIPTOR


def _no_descriptor(_guest: Guest, *_rest: int) -> int:
    return BAD_DESCRIPTOR


def _no_seek(_guest: Guest, descriptor: int, *_rest: int) -> int:
    return ILLEGAL_SEEK if descriptor in _STANDARD else BAD_DESCRIPTOR


def _fd_fdstat_get(guest: Guest, descriptor: int, at: int) -> int:
    if descriptor not in _STANDARD:
        return BAD_DESCRIPTOR
    rights = _RIGHT_WRITE if descriptor else _RIGHT_READ
    guest.write(at, struct.pack("<BxH4xQQ", _CHARACTER_DEVICE, 0, rights, 0))
    return SUCCESS


def _fd_filestat_get(guest: Guest, descriptor: int, at: int) -> int:
    if descriptor not in _STANDARD:
        return BAD_DESCRIPTOR
    guest.write(at, struct.pack("<QQB7xQQQQQ", 0, 0, _CHARACTER_DEVICE, 1, 0, 0, 0, 0))
    return SUCCESS


def _fd_read(guest: Guest, descriptor: int, _vectors_at: int, _count: int, read_at: int) -> int:
    if descriptor != 0:
        return BAD_DESCRIPTOR
    guest.write(read_at, _U32.pack(0))
    return SUCCESS


def _fd_write(guest: Guest, descriptor: int, vectors_at: int, count: int, written_at: int) -> int:
    if descriptor not in (1, 2):
        return BAD_DESCRIPTOR
    if count > _MAX_VECTORS:
        return INVALID
    text = bytearray()
    total = 0
    for pointer, length in struct.iter_unpack("<II", guest.read(vectors_at, 8 * count)):
        total += length
        text += guest.read(pointer, min(length, _MAX_OUTPUT - len(text)))
    guest.write(written_at, _U32.pack(total & 0xFFFF_FFFF))
    guest.print(descriptor, bytes(text))
    return SUCCESS


def _poll_oneoff(guest: Guest, subscriptions_at: int, events_at: int, count: int, happened_at: int) -> int:
    """Sleep until the first clock rings, at most to the deadline. Standard output is always ready."""
    if not 0 < count <= _MAX_VECTORS:
        return INVALID
    ready: list[bytes] = []
    clocks: list[tuple[float, bytes]] = []
    for user, kind, first, timeout, _precision, flags in _SUBSCRIPTION.iter_unpack(
        guest.read(subscriptions_at, _SUBSCRIPTION.size * count)
    ):
        if kind != _CLOCK_EVENT:
            ready.append(_EVENT.pack(user, SUCCESS if first in _STANDARD else BAD_DESCRIPTOR, kind, 0, 0))
        elif first not in _CLOCKS:
            ready.append(_EVENT.pack(user, INVALID, kind, 0, 0))
        else:
            wait = timeout - _now(guest, first) if flags & _ABSOLUTE else timeout
            clocks.append((max(0, wait) / 1e9, _EVENT.pack(user, SUCCESS, kind, 0, 0)))
    if not ready and clocks:
        soonest = min(clocks)[0]
        guest.sleep(soonest)
        ready = [event for seconds, event in clocks if seconds <= soonest]
    guest.write(events_at, b"".join(ready))
    guest.write(happened_at, _U32.pack(len(ready)))
    return SUCCESS


def _proc_exit(guest: Guest, code: int) -> None:
    guest.exit(code)


def _abort(guest: Guest, message_at: int, file_at: int, line: int, column: int) -> None:
    """How AssemblyScript ends: with a message and a place."""
    place = f"{_script_text(guest, file_at)}:{line}:{column}"
    guest.fail(FailureCode.RUNTIME_ERROR, f"abort: {_script_text(guest, message_at)} ({place})")


def _script_text(guest: Guest, at: int) -> str:
    """A string of AssemblyScript: UTF-16, its size in bytes stands before it."""
    if at < 4:
        return "?"
    try:
        size = min(_U32.unpack(guest.read(at - 4, 4))[0], KIB)
        return guest.read(at, size).decode("utf-16-le", "replace")
    except GuestStopped:
        return "?"


def _enter(guest: Guest, *arguments: int, function: WasiFunction) -> int:
    """Where the guest arrives; nothing is raised out of here."""
    try:
        return function(guest, *arguments)
    except GuestStopped:
        return FAULT
    except Exception:
        log.exception("wasm.wasi_failed", function=getattr(function, "__name__", ""), addon=guest.call.addon_key)
        guest.fail(FailureCode.RUNTIME_ERROR, "the host failed")
        return FAULT


_ERRNO_FUNCTIONS: Final[dict[str, tuple[str, WasiFunction]]] = {
    "args_get": ("ii", _args_get),
    "args_sizes_get": ("ii", _args_sizes_get),
    "environ_get": ("ii", _environ_get),
    "environ_sizes_get": ("ii", _environ_sizes_get),
    "clock_res_get": ("ii", _clock_res_get),
    "clock_time_get": ("iIi", _clock_time_get),
    "fd_advise": ("iIIi", _no_descriptor),
    "fd_allocate": ("iII", _no_descriptor),
    "fd_close": ("i", _standard_only),
    "fd_datasync": ("i", _standard_only),
    "fd_fdstat_get": ("ii", _fd_fdstat_get),
    "fd_fdstat_set_flags": ("ii", _standard_only),
    "fd_fdstat_set_rights": ("iII", _no_descriptor),
    "fd_filestat_get": ("ii", _fd_filestat_get),
    "fd_filestat_set_size": ("iI", _no_descriptor),
    "fd_filestat_set_times": ("iIIi", _no_descriptor),
    "fd_pread": ("iiiIi", _no_seek),
    "fd_prestat_get": ("ii", _no_descriptor),
    "fd_prestat_dir_name": ("iii", _no_descriptor),
    "fd_pwrite": ("iiiIi", _no_seek),
    "fd_read": ("iiii", _fd_read),
    "fd_readdir": ("iiiIi", _no_descriptor),
    "fd_renumber": ("ii", _no_descriptor),
    "fd_seek": ("iIii", _no_seek),
    "fd_sync": ("i", _standard_only),
    "fd_tell": ("ii", _no_seek),
    "fd_write": ("iiii", _fd_write),
    "path_create_directory": ("iii", _no_descriptor),
    "path_filestat_get": ("iiiii", _no_descriptor),
    "path_filestat_set_times": ("iiiiIIi", _no_descriptor),
    "path_link": ("iiiiiii", _no_descriptor),
    "path_open": ("iiiiiIIii", _no_descriptor),
    "path_readlink": ("iiiiii", _no_descriptor),
    "path_remove_directory": ("iii", _no_descriptor),
    "path_rename": ("iiiiii", _no_descriptor),
    "path_symlink": ("iiiii", _no_descriptor),
    "path_unlink_file": ("iii", _no_descriptor),
    "poll_oneoff": ("iiii", _poll_oneoff),
    "random_get": ("ii", _random_get),
    "sched_yield": ("", _sched_yield),
}
"""By name: the parameters (i for i32, I for i64) and what answers. Sockets and signals are missing on purpose."""


def _signature(letters: str, result: Wasm | None) -> Signature:
    return Signature(tuple(Wasm.I64 if letter == "I" else Wasm.I32 for letter in letters), result)


def wasi_imports() -> tuple[HostImport, ...]:
    """What the linker defines for runtimes: WASI, and the `abort` of AssemblyScript."""
    return (
        *(
            HostImport(WASI_MODULE, name, _signature(letters, Wasm.I32), partial(_enter, function=function))
            for name, (letters, function) in _ERRNO_FUNCTIONS.items()
        ),
        HostImport(WASI_MODULE, "proc_exit", _signature("i", None), _proc_exit),
        HostImport("env", "abort", _signature("iiii", None), _abort),
    )
