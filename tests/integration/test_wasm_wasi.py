"""WASI for language runtimes: enough to start, print, sleep and exit; no files, no network, no environment."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tests.guests.build import QUICK, call, guest

from metacore.wasm.abi import FailureCode
from metacore.wasm.calls import CallPath
from metacore.wasm.engine import Engine
from metacore.wasm.fast_call import FastPath
from metacore.wasm.limits import Limits
from metacore.wasm.memory_services import MemoryServices
from metacore.wasm.modules import Modules
from metacore.wasm.public_call import PublicPath

RUNTIME = guest("runtime")
BAD_DESCRIPTOR = 8
FAULT = 21
CHARACTER_DEVICE = 2
SECOND = 1_000_000_000


@pytest.fixture(scope="module", params=["fast", "public"])
def modules(request: pytest.FixtureRequest) -> Iterator[Modules]:
    engine = Engine()
    path: CallPath = FastPath(engine.raw) if request.param == "fast" else PublicPath(engine.raw)
    modules = Modules(engine, path=path)
    yield modules
    engine.close()
    modules.close()


def test_a_reactor_is_initialized_before_each_call(modules: Modules) -> None:
    assert call(modules, RUNTIME, "ready").value == 7


def test_a_command_that_exits_with_zero_serves_afterwards(modules: Modules) -> None:
    assert call(modules, guest("command"), "go").value == 7


@pytest.mark.parametrize(
    ("export", "answer"),
    [
        ("arguments", "addon"),
        ("environment", 0),
        ("open", BAD_DESCRIPTOR),
        ("preopened", BAD_DESCRIPTOR),
        ("input", 0),
        ("terminal", CHARACTER_DEVICE),
        ("fault", FAULT),
        ("randomness", 1),
    ],
)
def test_a_runtime_sees_an_empty_world(modules: Modules, export: str, answer: object) -> None:
    assert call(modules, RUNTIME, export).value == answer


def test_output_becomes_lines_of_the_log(modules: Modules) -> None:
    services = MemoryServices()
    assert call(modules, RUNTIME, "print", services=services).value == 5
    assert services.lines == ["one", "two", "thr", "oops!"]


def test_output_that_overlaps_itself_is_not_copied_a_thousand_times(modules: Modules) -> None:
    services = MemoryServices()
    assert call(modules, RUNTIME, "print_overlapping", services=services).value == 0
    assert sum(len(line) for line in services.lines) <= 65_536


def test_a_short_sleep_ends_by_itself(modules: Modules) -> None:
    assert call(modules, RUNTIME, "sleep", struct.pack("<Q", 1_000)).value == 1


def test_a_long_sleep_ends_at_the_deadline(modules: Modules) -> None:
    reply = call(modules, RUNTIME, "sleep", struct.pack("<Q", 3_600 * SECOND), limits=Limits(timeout=0.05))
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.TIMEOUT


@pytest.mark.parametrize("code", ["zero", "two"])
def test_an_exit_is_a_runtime_error(modules: Modules, code: str) -> None:
    reply = call(modules, RUNTIME, f"exit_{code}")
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.RUNTIME_ERROR
    assert "exited with code" in reply.failure.message


def test_a_runtime_that_says_it_has_no_memory_is_believed(modules: Modules) -> None:
    reply = call(modules, RUNTIME, "run_out", limits=QUICK)
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.MEMORY_EXHAUSTED


def test_an_abort_of_assemblyscript_tells_message_and_place(modules: Modules) -> None:
    reply = call(modules, RUNTIME, "abort")
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.RUNTIME_ERROR
    assert reply.failure.message == "abort: bad! (a.ts:3:14)"
