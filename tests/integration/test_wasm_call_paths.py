"""Which way guests are called, and that nothing of one call reaches another through the binding."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest
import wasmtime
from tests.guests.build import call, guest, parts
from wasmtime import _func as binding

from metacore.wasm import call_paths, fast_call
from metacore.wasm.abi import EXPORT_SIGNATURE, FailureCode
from metacore.wasm.call_paths import choose_path, examine
from metacore.wasm.calls import HostImport
from metacore.wasm.engine import Engine
from metacore.wasm.fast_call import FastPath
from metacore.wasm.guest import Guest
from metacore.wasm.instance import call_export
from metacore.wasm.limits import Limits
from metacore.wasm.memory_services import MemoryServices
from metacore.wasm.modules import Modules
from metacore.wasm.ports import HostCall, deadline_in
from metacore.wasm.public_call import PublicPath


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def test_the_fast_path_is_taken_with_the_installed_version(engine: Engine) -> None:
    assert choose_path(engine).name == "fast"


def test_both_paths_pass_the_examination(engine: Engine) -> None:
    examine(FastPath(engine.raw), engine)
    examine(PublicPath(engine.raw), engine)


def test_another_version_of_the_engine_is_called_through_its_public_api(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_paths, "version", lambda _: "51.0.0")
    path = choose_path(engine)
    assert path.name == "public"
    modules = Modules(engine, path=path)
    assert call(modules, guest("echo"), "echo", b"[1]").value == [1]
    modules.close()


@pytest.mark.parametrize("function", ["_call", "_export_get", "_memory_size", "_trap_new", "_define_func"])
def test_a_binding_that_fails_its_test_is_not_used(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(fast_call, function, lambda *_: 0)
    assert choose_path(engine).name == "public"


@pytest.mark.parametrize("fast", [True, False])
def test_an_exception_left_in_the_bindings_global_reaches_no_call(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    modules = Modules(engine, path=FastPath(engine.raw) if fast else PublicPath(engine.raw))
    monkeypatch.setattr(binding, "LAST_EXCEPTION", ValueError("of another call"))
    reply = call(modules, guest("hostile"), "give_up")
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.RUNTIME_ERROR
    assert "another call" not in reply.failure.message + reply.failure.detail
    modules.close()


@pytest.mark.parametrize("fast", [True, False])
def test_even_an_exit_of_a_host_function_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    class Exiting(MemoryServices):
        def env_get(self, call: HostCall, key: str) -> str | None:
            raise SystemExit(3)

    modules = Modules(engine, path=FastPath(engine.raw) if fast else PublicPath(engine.raw))
    reply = call(modules, guest("hostile"), "host_often", services=Exiting(), limits=Limits(timeout=5))
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.RUNTIME_ERROR
    assert binding.LAST_EXCEPTION is None
    assert call(modules, guest("echo"), "echo", b"[1]").value == [1]
    modules.close()


def test_a_cancelled_guest_ends_long_before_its_deadline(engine: Engine) -> None:
    modules = Modules(engine, path=FastPath(engine.raw))
    wasm = guest("hostile")
    module = modules.load(hashlib.sha256(wasm).hexdigest(), lambda: wasm)
    spinning = Guest(HostCall("shop", "spin", deadline_in(20)), Limits(timeout=20))
    timer = threading.Timer(0.01, spinning.cancel)
    timer.start()
    reply = call_export(modules, module, "spin", b"{}", spinning)
    timer.join()
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.CANCELLED
    assert spinning.call.remaining() > 0
    modules.close()


@pytest.mark.parametrize("fast", [True, False])
def test_a_thread_runs_one_guest_at_a_time(engine: Engine, fast: bool) -> None:
    modules = Modules(engine, path=FastPath(engine.raw) if fast else PublicPath(engine.raw))

    class Nesting(MemoryServices):
        def env_get(self, call_: HostCall, key: str) -> str | None:
            return call(modules, guest("echo"), "echo", b"[1]").raw.decode()

    reply = call(modules, guest("host"), "env_get", parts(b"key"), services=Nesting())
    assert reply.value["error"]["code"] == "internal_error"
    modules.close()


def test_a_function_is_defined_once(engine: Engine) -> None:
    path = FastPath(engine.raw)
    linker = wasmtime.Linker(engine.raw)
    item = HostImport("metacore_host", "log", EXPORT_SIGNATURE, lambda *_: 0)
    path.define(linker, (item,))
    with pytest.raises(wasmtime.WasmtimeError, match="defined twice"):
        path.define(linker, (item,))


@pytest.mark.parametrize("fast", [True, False])
def test_a_guest_that_was_ended_is_served_no_more(engine: Engine, fast: bool) -> None:
    modules = Modules(engine, path=FastPath(engine.raw) if fast else PublicPath(engine.raw))
    asked: list[str] = []

    class Unserviceable(MemoryServices):
        def env_get(self, call: HostCall, key: str) -> str | None:
            asked.append(key)
            return "x" * 200_000  # More than the guest's memory, and its allocator promises it all the same.

    reply = call(modules, guest("hostile"), "host_often", services=Unserviceable())
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.RUNTIME_ERROR
    assert asked == ["key"]
    modules.close()
