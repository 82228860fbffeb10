"""Which way guests are called in this process: the fast one, if it proves itself at the start, else the public API."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import wasmtime

from metacore.logs import get_logger
from metacore.wasm.abi import EXPORT_SIGNATURE, pack, unpack
from metacore.wasm.calls import CallPath, GuestStopped, HostImport, Linked, StopKind
from metacore.wasm.engine import TICK_SECONDS, Engine
from metacore.wasm.limits import MIB, Limits
from metacore.wasm.public_call import PublicPath

log = get_logger(__name__)

KNOWN_VERSION: Final = "50.0.1"
"""The release whose private binding `fast_call` was written against; the dependency is pinned to it."""

_LIMITS: Final = Limits(memory_bytes=1 * MIB, timeout=0.2)
_TEXT: Final = b"self-test \xf0\x9f\xa7\xaa"
_HIGH: Final = 0xFFFF_FFF0
_GUEST: Final = """
(module
  (import "self_test" "host" (func $host (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.sub (i32.const 65536) (local.get 0)))
  (func (export "echo") (param $at i32) (param $length i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length))))
  (func $same (param i64) (result i64) (local.get 0))
  (func (export "ask") (param i32 i32) (result i64)
    (call $same (call $host (i32.const 0xFFFFFFF0) (local.get 1))))
  (func (export "trap") (param i32 i32) (result i64) (unreachable))
  (func (export "spin") (param i32 i32) (result i64) (loop $again (br $again)) (unreachable))
  (func (export "grow") (param i32 i32) (result i64) (i64.extend_i32_s (memory.grow (i32.const 100)))))
"""


@dataclass(slots=True)
class _Examiner:
    """A supervisor that lets the guest run for `slices` questions."""

    slices: int = 1_000_000
    stopped: bool = False
    asked_with: tuple[int, int] = (0, 0)

    def ticks(self) -> int:
        self.slices -= 1
        self.stopped = self.stopped or self.slices < 0
        return 0 if self.stopped else 1


def _host(examiner: _Examiner, first: int, second: int) -> int:
    examiner.asked_with = (first, second)
    examiner.stopped = second == 0
    return pack(_HIGH, second)


def choose_path(engine: Engine) -> CallPath:
    """The fast path after it passed its test, which takes some milliseconds; else the public one, with a warning."""
    try:
        installed = version("wasmtime")
        if installed != KNOWN_VERSION:
            raise LookupError(f"wasmtime {installed} is not the known {KNOWN_VERSION}")
        # Imported here, because importing declares functions of the library, which another version may not have.
        from metacore.wasm.fast_call import FastPath

        path = FastPath(engine.raw)
        examine(path, engine)
    except Exception as error:
        log.warning("wasm.fast_path_refused", reason=f"{type(error).__name__}: {error}")
        return PublicPath(engine.raw)
    return path


def examine(path: CallPath, engine: Engine) -> None:
    """Prove that `path` calls, stops and limits guests as the rest of the room takes for granted.

    Raises:
        AssertionError: naming the first thing that it does not.
    """
    linker = wasmtime.Linker(engine.raw)
    path.define(linker, (HostImport("self_test", "host", EXPORT_SIGNATURE, _host),))
    linked = path.link(linker, wasmtime.Module(engine.raw, _GUEST), starts=False)

    _require(_outcome(path, linked, "echo", _TEXT)[1] == _TEXT, "bytes do not come back")
    supervisor, answer, _ = _outcome(path, linked, "ask", b"x")
    _require(supervisor.asked_with == (_HIGH, 1), "arguments of host functions are wrong")
    _require(answer == pack(_HIGH, 1), "results of host functions are wrong")
    _require(_outcome(path, linked, "ask", b"")[2] is StopKind.INTERRUPTED, "a host function cannot stop its guest")
    _require(_outcome(path, linked, "trap", b"")[2] is StopKind.TRAP, "a trap is not seen")
    _require(_outcome(path, linked, "grow", b"")[1] == 0xFFFF_FFFF_FFFF_FFFF, "the memory limit does not hold")
    with _Ticks(engine.raw):
        _require(_outcome(path, linked, "spin", b"", slices=2)[2] is StopKind.INTERRUPTED, "a deadline does not hold")


def _outcome(
    path: CallPath, linked: Linked, export: str, text: bytes, slices: int = 1_000_000
) -> tuple[_Examiner, bytes | int | None, StopKind | None]:
    supervisor = _Examiner(slices)
    calls = path.open(linked, export, _LIMITS, supervisor)
    try:
        calls.instantiate()
        pointer = calls.alloc(len(text))
        ctypes.memmove(calls.memory()[0] + pointer, text, len(text))
        packed = calls.run(pointer, len(text))
        start, length = unpack(packed)
        address, size = calls.memory()
        answer = ctypes.string_at(address + start, length) if length and start + length <= size else packed
    except GuestStopped as stopped:
        return supervisor, None, stopped.kind
    finally:
        calls.close()
    return supervisor, answer, None


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)


class _Ticks:
    """Ticks of the epoch for as long as the test of deadlines takes, without the engine's own thread."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="metacore-wasm-self-test")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._done.wait(TICK_SECONDS):
            self._engine.increment_epoch()
