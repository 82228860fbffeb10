"""The sandbox against the engine's own public API doing the same work, round by round in one run.

A row is (name, value, unit, yardstick, ratio): `value` is ours, `yardstick` the public API's figure in the same unit,
and `ratio` how many times ours is quicker. `python -m tests.bench.wasm` prints them.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import wasmtime
from tests.guests.build import assemble, guest, parts

from metacore.wasm.engine import Engine
from metacore.wasm.fast_call import FastPath
from metacore.wasm.guest import Guest
from metacore.wasm.instance import call_export
from metacore.wasm.limits import MIB, Limits
from metacore.wasm.memory_services import MemoryServices
from metacore.wasm.modules import Modules
from metacore.wasm.ports import HostCall, HostReply, deadline_in
from metacore.wasm.public_call import PublicPath
from metacore.wasm.runtime import ModuleSource, Runtime

Row = tuple[str, float, str, float, float]

ROUNDS = 9
MICRO, MILLI = 1e6, 1e3
LIMITS = Limits()
REQUEST = orjson.dumps({"text": "x" * 1_000, "n": 1})
DEADLINE = 0.05
TICKS_FOR_EVER = 1 << 40

ECHO = assemble("""
(module
  (memory (export "memory") 2)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "echo") (param $at i32) (param $length i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length)))))
""")
HOST_CALLS = 1_000
CALLER = assemble(f"""
(module
  (import "metacore_host" "env_get" (func $env_get (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "ask") (param i32 i32) (result i64)
    (local $count i32)
    (loop $again
      (drop (call $env_get (i32.const 72) (i32.const 3)))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $count) (i32.const {HOST_CALLS}))))
    (i64.const 0))
  (data (i32.const 72) "key"))
""")


def large_module(functions: int = 2_600) -> bytes:
    """About 200 KB of code with loops and memory accesses, each function different."""
    bodies = "".join(
        f"""(func (param i32 i32) (result i32) (local i32)
          (loop $l (local.set 2 (i32.add (local.get 2) (i32.mul (i32.load offset={n} (local.get 0)) (i32.const {n}))))
            (i32.store offset={n + 4} (local.get 1) (i32.xor (local.get 2) (i32.const {n * 77})))
            (local.set 0 (i32.add (local.get 0) (i32.const 4)))
            (br_if $l (i32.lt_u (local.get 0) (local.get 1))))
          (i32.rotl (local.get 2) (i32.const {n % 31})))"""
        for n in range(functions)
    )
    allocator = '(func (export "alloc") (param i32) (result i32) (i32.const 1024))'
    return assemble(f'(module (memory (export "memory") 2) {allocator} {bodies})')


def digest(wasm: bytes) -> str:
    return hashlib.sha256(wasm).hexdigest()


class PublicGuests:
    """The same calls as a program would write them with wasmtime-py's documentation at hand."""

    def __init__(self, engine: Engine, wasm: bytes) -> None:
        self.engine = engine
        linker = wasmtime.Linker(engine.raw)
        i32, i64 = wasmtime.ValType.i32(), wasmtime.ValType.i64()
        linker.define_func("metacore_host", "env_get", wasmtime.FuncType([i32, i32], [i64]), self._env_get, True)
        self.pre = linker.instantiate_pre(wasmtime.Module(engine.raw, wasm))
        self.store, self.exports = self.fresh()

    @staticmethod
    def _env_get(caller: wasmtime.Caller, pointer: int, length: int) -> int:
        memory, alloc = caller["memory"], caller["alloc"]
        assert isinstance(memory, wasmtime.Memory)
        assert isinstance(alloc, wasmtime.Func)
        memory.read(caller, pointer, pointer + length).decode()
        answer = b"value"
        at = alloc(caller, len(answer))
        memory.write(caller, answer, at)
        return int((at << 32) | len(answer))

    def fresh(self) -> tuple[wasmtime.Store, Any]:
        store = wasmtime.Store(self.engine.raw)
        store.set_limits(LIMITS.memory_bytes, 200_000, 1, 8, 1)
        store.set_epoch_deadline(TICKS_FOR_EVER)
        return store, self.pre.instantiate(store).exports(store)

    def call(self, store: wasmtime.Store, exports: Any, name: str, request: bytes) -> bytes:
        store.set_epoch_deadline(TICKS_FOR_EVER)
        at = exports["alloc"](store, len(request))
        exports["memory"].write(store, request, at)
        packed = exports[name](store, at, len(request)) & 0xFFFF_FFFF_FFFF_FFFF
        start, length = packed >> 32, packed & 0xFFFF_FFFF
        return bytes(exports["memory"].read(store, start, start + length))

    def warm(self) -> None:
        self.call(self.store, self.exports, "echo", REQUEST)

    def whole(self, name: str = "echo") -> Any:
        store, exports = self.fresh()
        reply = self.call(store, exports, name, REQUEST)
        store.close()
        return orjson.loads(reply) if reply else None


def per_call(work: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def compare(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[float, float]:
    """Medians of seconds per call, the two taking turns."""
    mine, yours = [], []
    ours(), theirs()
    for _ in range(ROUNDS):
        mine.append(per_call(ours, times))
        yours.append(per_call(theirs, times))
    return statistics.median(mine), statistics.median(yours)


async def compare_async(
    ours: Callable[[], Awaitable[object]], theirs: Callable[[], Awaitable[object]], times: int
) -> tuple[float, float]:
    async def one(work: Callable[[], Awaitable[object]]) -> float:
        began = time.perf_counter()
        for _ in range(times):
            await work()
        return (time.perf_counter() - began) / times

    mine, yours = [], []
    await ours(), await theirs()
    for _ in range(ROUNDS):
        mine.append(await one(ours))
        yours.append(await one(theirs))
    return statistics.median(mine), statistics.median(yours)


def row(name: str, unit: str, scale: float, pair: tuple[float, float]) -> Row:
    ours, theirs = pair
    return name, ours * scale, unit, theirs * scale, theirs / ours


def in_the_thread() -> list[Row]:
    engine = Engine()
    modules = Modules(engine, path=FastPath(engine.raw))
    module = modules.load(digest(ECHO), lambda: ECHO)
    caller = modules.load(digest(CALLER), lambda: CALLER)
    public, public_caller = PublicGuests(engine, ECHO), PublicGuests(engine, CALLER)
    services = MemoryServices({"key": "value"})

    def whole() -> None:
        guest_ = Guest(HostCall("bench", "echo", deadline_in(LIMITS.timeout)), LIMITS)
        assert call_export(modules, module, "echo", REQUEST, guest_).value["n"] == 1

    def asking() -> None:
        guest_ = Guest(HostCall("bench", "ask", deadline_in(LIMITS.timeout)), LIMITS, services)
        assert call_export(modules, caller, "ask", b"{}", guest_).failure is None

    host = compare(asking, lambda: public_caller.whole("ask"), 3)
    rows = [
        row("fresh instance + 1 KiB, in the thread", "µs", MICRO, compare(whole, public.whole, 300)),
        row("host call that answers", "µs", MICRO, (host[0] / HOST_CALLS, host[1] / HOST_CALLS)),
    ]
    warm_guest = Guest(HostCall("bench", "echo", deadline_in(3_600)), Limits(timeout=3_600))
    calls = modules.path.open(module.linked, "echo", LIMITS, warm_guest)
    warm_guest.calls = calls
    calls.instantiate()

    def warm() -> None:
        calls.resume()
        packed = calls.run(warm_guest.place(REQUEST), len(REQUEST))
        warm_guest.read(packed >> 32, packed & 0xFFFF_FFFF)

    rows.insert(0, row("warm call, 1 KiB", "µs", MICRO, compare(warm, public.warm, 300)))
    calls.close()
    engine.close()
    modules.close()
    return rows


def loading() -> list[Row]:
    wasm = large_module()
    key = digest(wasm)
    engine = Engine()
    path = FastPath(engine.raw)
    with tempfile.TemporaryDirectory(prefix="metacore-bench-") as folder:
        first = Modules(engine, Path(folder) / "cache", path=path, in_memory=0)
        first.load(key, lambda: wasm)

        def cached() -> None:
            first.load(key, lambda: b"")

        compiled = statistics.median(per_call(lambda: wasmtime.Module(engine.raw, wasm), 1) for _ in range(3))
        loaded = statistics.median(per_call(cached, 20) for _ in range(ROUNDS))
        first.close()
    engine.close()
    name = f"cached load against compile, {len(wasm) // 1_000} KB"
    return [row(name, "ms", MILLI, (loaded, compiled))]


def deadlines() -> list[Row]:
    """By how much a guest that spins outlives its deadline, at worst."""
    wasm = guest("hostile")
    engine = Engine()
    limits = Limits(memory_bytes=8 * MIB, timeout=DEADLINE)

    def worst(modules: Modules) -> float:
        module = modules.load(digest(wasm), lambda: wasm)
        overshoots = []
        for _ in range(10):
            guest_ = Guest(HostCall("bench", "spin", deadline_in(DEADLINE)), limits)
            overshoots.append(call_export(modules, module, "spin", b"{}", guest_).seconds - DEADLINE)
        return max(overshoots)

    fast = Modules(engine, path=FastPath(engine.raw))
    public = Modules(engine, path=PublicPath(engine.raw))
    rows = [row("overshoot of a 50 ms deadline, worst of 10", "ms", MILLI, (worst(fast), worst(public)))]
    engine.close()
    fast.close()
    public.close()
    return rows


class QueryingServices(MemoryServices):
    """A database that answers at once, so that only the way to the loop and back is measured."""

    async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> HostReply:
        return HostReply({"rows": [], "rowCount": 0, "columns": []})


async def from_the_loop() -> list[Row]:
    async with await Runtime.open(threads=4) as runtime:
        echo, host = (
            ModuleSource(digest(ECHO), lambda: ECHO),
            ModuleSource(digest(guest("host")), lambda: guest("host")),
        )
        public = PublicGuests(runtime.engine, ECHO)
        services = QueryingServices()
        request = parts(b"select 1", b"[]")

        async def ours() -> None:
            assert (await runtime.invoke("bench", echo, "echo", REQUEST, LIMITS)).value["n"] == 1

        async def theirs() -> None:
            assert (await asyncio.to_thread(public.whole))["n"] == 1

        async def query() -> None:
            assert (await runtime.invoke("bench", host, "db_query", request, LIMITS, services)).succeeded

        async def sixteen(work: Callable[[], Awaitable[None]]) -> None:
            await asyncio.gather(*(work() for _ in range(16)))

        lone = await compare_async(ours, theirs, 100)
        rows = [row("fresh instance + 1 KiB, from the loop", "µs", MICRO, lone)]
        together = await compare_async(lambda: sixteen(ours), lambda: sixteen(theirs), 10)
        rows.append(row("the same, 16 at once, per call", "µs", MICRO, (together[0] / 16, together[1] / 16)))
        rows.append(
            row(
                "with one db_query on the loop, against the call alone",
                "µs",
                MICRO,
                await compare_async(query, ours, 100),
            )
        )
        return rows


async def measure() -> list[Row]:
    """All rows, in about ten seconds."""
    rows = await asyncio.to_thread(in_the_thread)
    rows += await from_the_loop()
    rows += await asyncio.to_thread(loading)
    rows += await asyncio.to_thread(deadlines)
    return rows


if __name__ == "__main__":
    print(f"{'':56} {'ours':>10}      {'public API':>10} {'times':>8}")
    for name, value, unit, yardstick, ratio in asyncio.run(measure()):
        print(f"{name:56} {value:10.2f} {unit:3}  {yardstick:10.2f} {ratio:8.2f}")
