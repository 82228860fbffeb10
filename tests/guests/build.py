"""Modules from the texts beside this file, and calling them without a pool."""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from pathlib import Path

import wasmtime

from metacore.wasm.abi import Reply
from metacore.wasm.bridge import LoopBridge
from metacore.wasm.guest import Guest
from metacore.wasm.instance import call_export
from metacore.wasm.limits import KIB, Limits
from metacore.wasm.modules import Modules
from metacore.wasm.ports import HostCall, HostServices, deadline_in
from metacore.wasm.runtime import ModuleSource

FOLDER = Path(__file__).parent
QUICK = Limits(memory_bytes=32_768 * KIB, timeout=5.0)

ALLOCATORS = {
    "outside": "(i32.const 0x00FFFFF0)",
    "at_the_end": "(i32.const 65535)",
    "negative": "(i32.const -8)",
    "null": "(i32.const 0)",
    "trapping": "(unreachable)",
    "spinning": "(loop $again (br $again)) (unreachable)",
    "asking_the_host": "(drop (call $env_get (i32.const 72) (i32.const 3))) (i32.const 1024)",
    "logging": "(call $log (i32.const 72) (i32.const 3)) (i32.const 1024)",
    "lying_the_second_time": "(select (i32.const 1024) (i32.const 70000) (i32.eq (global.get $calls) (i32.const 1)))",
}
"""Bodies of `alloc`."""

_ALLOCATOR_GUEST = """
(module
  (import "metacore_host" "env_get" (func $env_get (param i32 i32) (result i64)))
  (import "metacore_host" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (global $calls (mut i32) (i32.const 0))
  (func (export "alloc") (param $size i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    BODY)
  (func (export "go") (param i32 i32) (result i64) (call $env_get (i32.const 72) (i32.const 3)))
  (data (i32.const 72) "key"))
"""


@cache
def guest(name: str) -> bytes:
    """The module that `<name>.wat` describes."""
    return assemble((FOLDER / f"{name}.wat").read_text("utf-8"))


@cache
def guest_with_allocator(name: str) -> bytes:
    """A guest whose `alloc` is one of ALLOCATORS; its export `go` asks for the setting `key` and replies with it."""
    return assemble(_ALLOCATOR_GUEST.replace("BODY", ALLOCATORS[name]))


def assemble(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def source(wasm: bytes) -> ModuleSource:
    return ModuleSource(hashlib.sha256(wasm).hexdigest(), lambda: wasm)


def parts(*texts: bytes) -> bytes:
    """A request to the guest `host.wat`."""
    lengths = [*(len(text) for text in texts), 0, 0][:3]
    return struct.pack("<III", *lengths) + b"".join(texts)


def call(
    modules: Modules,
    wasm: bytes,
    export: str,
    request: bytes = b"{}",
    *,
    limits: Limits = QUICK,
    services: HostServices | None = None,
    bridge: LoopBridge | None = None,
) -> Reply:
    """One call in this thread."""
    module = modules.load(hashlib.sha256(wasm).hexdigest(), lambda: wasm)
    host_call = HostCall("shop", export, deadline_in(limits.timeout))
    return call_export(modules, module, export, request, Guest(host_call, limits, services, bridge))
