"""Guests side by side: fairness, isolation, cancellation, bounds, shutting down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from tests.guests.build import QUICK, assemble, guest, guest_with_allocator, parts, source

from metacore.errors import NotFound, Refused, TooManyRequests, Unavailable
from metacore.wasm.abi import FailureCode
from metacore.wasm.limits import MIB, Limits
from metacore.wasm.memory_services import MemoryServices
from metacore.wasm.pool import Pool
from metacore.wasm.ports import HostCall
from metacore.wasm.runtime import ModuleSource, Runtime

ECHO, HOSTILE, HOST = source(guest("echo")), source(guest("hostile")), source(guest("host"))
LONG = Limits(memory_bytes=8 * MIB, timeout=60)


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with await Runtime.open(threads=4) as runtime:
        yield runtime


class Gate(MemoryServices):
    """A setting that is only told once the gate is open; `arrived` counts the guests that wait in front of it."""

    def __init__(self, wanted: int = 1) -> None:
        super().__init__()
        self._open = threading.Event()
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self.all_here = asyncio.Event()

    def _arrive(self) -> None:
        self._count += 1
        if self._count == self._wanted:
            self.all_here.set()

    def env_get(self, call: HostCall, key: str) -> str | None:
        self._loop.call_soon_threadsafe(self._arrive)
        self._open.wait()
        return "1"

    def open(self) -> None:
        self._open.set()


async def spin(runtime: Runtime, addon: str, gate: Gate | None = None) -> asyncio.Task[object]:
    """A call that never ends by itself; with a gate it is known to run."""
    call = runtime.invoke(addon, HOSTILE, "host_forever" if gate else "spin", b"{}", LONG, gate)
    return asyncio.create_task(call)


async def stopped(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_addon_that_spins_in_fifty_calls_does_not_stop_another(runtime: Runtime) -> None:
    spinning = [await spin(runtime, "spinning") for _ in range(50)]
    replies = await asyncio.gather(
        *(runtime.invoke("shop", ECHO, "echo", b"%d" % number, QUICK) for number in range(50))
    )
    assert [reply.value for reply in replies] == list(range(50))
    assert not any(task.done() for task in spinning)
    await stopped(*spinning)


async def test_calls_of_many_kinds_at_once_meet_only_their_own_fate(runtime: Runtime) -> None:
    short = Limits(memory_bytes=8 * MIB, timeout=0.05)
    liar = source(guest_with_allocator("outside"))
    kinds: list[tuple[ModuleSource, str, FailureCode | None]] = [
        (ECHO, "echo", None),
        (HOSTILE, "give_up", FailureCode.RUNTIME_ERROR),
        (HOSTILE, "recurse", FailureCode.RUNTIME_ERROR),
        (HOSTILE, "spin", FailureCode.TIMEOUT),
        (HOSTILE, "grab", FailureCode.MEMORY_EXHAUSTED),
        (HOSTILE, "host_pointer", FailureCode.RUNTIME_ERROR),
        (HOSTILE, "reply_giant", FailureCode.PAYLOAD_TOO_LARGE),
        (HOSTILE, "reply_all_of_it", FailureCode.INVALID_REPLY),
        (liar, "go", FailureCode.RUNTIME_ERROR),
        (ECHO, "text", FailureCode.INVALID_REPLY),
    ]
    calls = [(number, *kinds[number % len(kinds)]) for number in range(50)]

    async def one(number: int, module: ModuleSource, export: str, code: FailureCode | None) -> None:
        services = MemoryServices({"key": str(number)})
        request = b'{"n":%d}' % number
        limits = short if code is FailureCode.TIMEOUT else Limits(memory_bytes=8 * MIB, timeout=30)
        reply = await runtime.invoke(f"addon{number % 7}", module, export, request, limits, services)
        assert (reply.failure.code if reply.failure else None) is code, (number, export, reply.failure)
        if code is None:
            assert reply.value == {"n": number}

    await asyncio.gather(*(one(*call) for call in calls))


async def test_services_of_calls_side_by_side_are_not_mixed_up(runtime: Runtime) -> None:
    async def one(number: int) -> None:
        services = MemoryServices({"who": str(number)})
        reply = await runtime.invoke(f"addon{number % 5}", HOST, "env_get", parts(b"who"), QUICK, services)
        assert reply.value == number

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_cancelled_guest_ends_and_frees_its_thread() -> None:
    async with await Runtime.open(threads=1) as runtime:
        gate = Gate()
        task = await spin(runtime, "shop", gate)
        await gate.all_here.wait()
        gate.open()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await runtime.invoke("shop", ECHO, "echo", b"[1]", QUICK)).value == [1]


async def test_a_guest_cancelled_twice_is_still_waited_for() -> None:
    async with await Runtime.open(threads=1) as runtime:
        gate = Gate()
        task = await spin(runtime, "shop", gate)
        await gate.all_here.wait()
        try:
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        finally:
            gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_call_cancelled_while_it_waits_is_never_run() -> None:
    async with await Runtime.open(threads=1) as runtime:
        gate, services = Gate(), MemoryServices({"key": "1"})
        running = asyncio.create_task(runtime.invoke("shop", HOSTILE, "host_often", b"{}", LONG, gate))
        await gate.all_here.wait()
        waiting = asyncio.create_task(runtime.invoke("shop", HOST, "log", parts(b"ran"), LONG, services))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        assert (await running).value == 42
        await runtime.invoke("shop", ECHO, "echo", b"1", QUICK)
        assert services.lines == []


async def test_the_loop_stays_free_while_guests_compute(runtime: Runtime) -> None:
    spinning = [await spin(runtime, f"addon{number}") for number in range(4)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert not any(task.done() for task in spinning)
    await stopped(*spinning)


async def test_an_export_that_is_not_of_the_abi_is_not_found(runtime: Runtime) -> None:
    for export in ("absent", "alloc", "memory", "wrong"):
        with pytest.raises(NotFound):
            await runtime.invoke("shop", ECHO, export, b"{}", QUICK)


async def test_a_module_that_cannot_be_loaded_fails_every_call_and_may_be_tried_again(runtime: Runtime) -> None:
    good = guest("echo")
    answers = [b"\0asm\x01\0\0\0\xff", good]
    broken = ModuleSource(source(good).digest, lambda: answers.pop(0))
    calls = [runtime.invoke("shop", broken, "echo", b"1", QUICK) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Refused] * 3
    assert (await runtime.invoke("shop", broken, "echo", b"1", QUICK)).value == 1


async def test_scanning_goes_through_the_runtime(runtime: Runtime) -> None:
    assert (await runtime.scan(guest("echo"), ["echo"], QUICK)).host_functions == ()
    with pytest.raises(Refused):
        await runtime.scan(assemble("(module)"), [], QUICK)


@pytest.fixture
async def pool() -> AsyncIterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def build(**bounds: float) -> Pool:
        pool = Pool(1, **bounds)  # type: ignore[arg-type]
        pool.start()
        pools.append(pool)
        return pool

    yield build
    for pool in pools:
        await pool.close()


class Blocker:
    """Work that holds its thread until it is released."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._release = threading.Event()
        self.running = asyncio.Event()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self.running.set)
        self._release.wait()
        return "done"

    def release(self) -> None:
        self._release.set()


async def test_too_many_waiting_calls_are_turned_away(pool: Callable[..., Pool]) -> None:
    busy, blocker = pool(waiting_per_addon=2), Blocker()
    first = asyncio.create_task(busy.run("a", blocker, blocker.release))
    await blocker.running.wait()
    waiting = [asyncio.create_task(busy.run("a", lambda: "later", lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await busy.run("a", lambda: "never", lambda: None)
    assert refused.value.retry_after == 1.0
    other = asyncio.create_task(busy.run("b", lambda: "other", lambda: None))
    await asyncio.sleep(0)
    blocker.release()
    assert await asyncio.gather(first, *waiting, other) == ["done", "later", "later", "other"]


async def test_a_call_that_finds_no_thread_in_time_is_turned_away(pool: Callable[..., Pool]) -> None:
    busy, blocker = pool(wait_seconds=0.01), Blocker()
    first = asyncio.create_task(busy.run("a", blocker, blocker.release))
    await blocker.running.wait()
    with pytest.raises(TooManyRequests):
        await busy.run("b", lambda: "never", lambda: None)
    blocker.release()
    assert await first == "done"


async def test_an_exception_of_the_work_reaches_its_caller_only(pool: Callable[..., Pool]) -> None:
    one = pool()

    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await one.run("a", fail, lambda: None)
    assert await one.run("a", lambda: 1, lambda: None) == 1


async def test_a_closed_pool_takes_nothing(pool: Callable[..., Pool]) -> None:
    closed = pool()
    await closed.close()
    with pytest.raises(Unavailable):
        await closed.run("a", lambda: 1, lambda: None)


async def test_closing_the_runtime_ends_the_guests_that_run() -> None:
    runtime = await Runtime.open(threads=1)
    gate = Gate()
    running = asyncio.create_task(runtime.invoke("shop", HOSTILE, "host_forever", b"{}", LONG, gate))
    await gate.all_here.wait()
    waiting = asyncio.create_task(runtime.invoke("shop", HOSTILE, "spin", b"{}", LONG))
    await asyncio.sleep(0)
    gate.open()
    await runtime.close()
    reply = await running
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.CANCELLED
    with pytest.raises(Unavailable):
        await waiting


async def test_deep_recursion_is_a_trap_in_a_process_of_small_stacks() -> None:
    before = threading.stack_size(256 * 1024)
    try:
        async with await Runtime.open(threads=1) as runtime:
            reply = await runtime.invoke("shop", HOSTILE, "recurse", b"{}", QUICK)
    finally:
        threading.stack_size(before)
    assert reply.failure is not None
    assert reply.failure.message == "call stack exhausted"
