"""What guests do, well or badly, and what the caller is told. Every test runs on both ways to call a guest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.guests.build import QUICK, call, guest, guest_with_allocator

from metacore.wasm.abi import FailureCode, Reply
from metacore.wasm.calls import CallPath
from metacore.wasm.engine import Engine
from metacore.wasm.fast_call import FastPath
from metacore.wasm.limits import MAX_LOG_LINES, MIB, Limits
from metacore.wasm.memory_services import MemoryServices
from metacore.wasm.modules import Modules
from metacore.wasm.public_call import PublicPath

SHORT = Limits(memory_bytes=8 * MIB, timeout=0.06)


@pytest.fixture(scope="module", params=["fast", "public"])
def modules(request: pytest.FixtureRequest) -> Iterator[Modules]:
    engine = Engine()
    path: CallPath = FastPath(engine.raw) if request.param == "fast" else PublicPath(engine.raw)
    modules = Modules(engine, path=path)
    yield modules
    engine.close()
    modules.close()


def code_of(reply: Reply) -> FailureCode | None:
    assert (reply.value, reply.raw) == (None, b"") or reply.failure is None
    return reply.failure.code if reply.failure else None


def test_a_request_comes_back(modules: Modules) -> None:
    reply = call(modules, guest("echo"), "echo", '{"greeting":"grüß dich 🧪"}'.encode())
    assert reply.value == {"greeting": "grüß dich 🧪"}
    assert reply.succeeded
    assert reply.memory_bytes == 2 * 65_536


def test_a_request_larger_than_the_first_memory_comes_back(modules: Modules) -> None:
    request = b'"' + b"x" * (3 * MIB) + b'"'
    reply = call(modules, guest("echo"), "echo", request)
    assert reply.raw == request
    assert reply.memory_bytes > 3 * MIB


def test_an_empty_reply_is_success(modules: Modules) -> None:
    reply = call(modules, guest("echo"), "nothing")
    assert (reply.value, reply.succeeded) == (None, True)


def test_an_empty_request_reaches_the_guest(modules: Modules) -> None:
    assert call(modules, guest("echo"), "echo", b"").value is None


def test_a_guest_that_declines_is_no_failure(modules: Modules) -> None:
    reply = call(modules, guest("echo"), "declined")
    assert reply.failure is None
    assert not reply.succeeded


def test_every_call_gets_a_fresh_instance(modules: Modules) -> None:
    assert [call(modules, guest("echo"), "count").value for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("export", ["spin", "host_forever"])
def test_a_guest_that_does_not_end_is_ended_at_its_deadline(modules: Modules, export: str) -> None:
    reply = call(modules, guest("hostile"), export, limits=SHORT, services=MemoryServices({"key": "1"}))
    assert code_of(reply) is FailureCode.TIMEOUT


def test_a_start_function_that_does_not_end_is_ended_at_the_deadline(modules: Modules) -> None:
    assert code_of(call(modules, guest("start_loops"), "go", limits=SHORT)) is FailureCode.TIMEOUT


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("recurse", "call stack exhausted"),
        ("give_up", "unreachable"),
        ("divide", "integer divide by zero"),
        ("wild_read", "out of bounds memory access"),
        ("wild_call", "uninitialized element"),
    ],
)
def test_a_trap_is_a_runtime_error_that_says_why(modules: Modules, export: str, message: str) -> None:
    reply = call(modules, guest("hostile"), export)
    assert code_of(reply) is FailureCode.RUNTIME_ERROR
    assert reply.failure is not None
    assert message in reply.failure.message
    assert "wasm" in reply.failure.detail


def test_taking_all_the_memory_is_memory_exhausted(modules: Modules) -> None:
    reply = call(modules, guest("hostile"), "grab", limits=SHORT)
    assert code_of(reply) is FailureCode.MEMORY_EXHAUSTED
    assert reply.memory_bytes <= SHORT.memory_bytes


def test_a_guest_may_live_with_a_refused_page(modules: Modules) -> None:
    reply = call(modules, guest("hostile"), "grab_and_reply", limits=SHORT)
    assert reply.value == 42
    assert reply.memory_bytes <= SHORT.memory_bytes


def test_a_module_that_begins_with_more_than_the_limit_is_memory_exhausted(modules: Modules) -> None:
    reply = call(modules, guest("host"), "env_get", limits=Limits(memory_bytes=1 * MIB))
    assert code_of(reply) is FailureCode.MEMORY_EXHAUSTED


@pytest.mark.parametrize("export", ["reply_beyond", "reply_far", "host_pointer", "log_pointer"])
def test_a_pointer_outside_the_memory_is_a_runtime_error(modules: Modules, export: str) -> None:
    reply = call(modules, guest("hostile"), export, services=MemoryServices())
    assert code_of(reply) is FailureCode.RUNTIME_ERROR
    assert reply.failure is not None
    assert "outside the guest's memory" in reply.failure.message


@pytest.mark.parametrize("export", ["reply_wraps", "reply_giant", "reply_large"])
def test_a_reply_beyond_the_limit_is_refused_before_it_is_read(modules: Modules, export: str) -> None:
    assert code_of(call(modules, guest("hostile"), export)) is FailureCode.PAYLOAD_TOO_LARGE


def test_a_reply_without_length_is_empty(modules: Modules) -> None:
    reply = call(modules, guest("hostile"), "reply_pointer_only")
    assert (reply.value, reply.failure) == (None, None)


@pytest.mark.parametrize(("name", "export"), [("echo", "text"), ("hostile", "reply_all_of_it")])
def test_a_reply_that_is_no_json_is_invalid(modules: Modules, name: str, export: str) -> None:
    assert code_of(call(modules, guest(name), export)) is FailureCode.INVALID_REPLY


def test_a_request_beyond_the_limit_never_reaches_the_guest(modules: Modules) -> None:
    reply = call(modules, guest("hostile"), "give_up", b" " * 11, limits=replace(QUICK, request_bytes=10))
    assert code_of(reply) is FailureCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(
    ("allocator", "code"),
    [
        ("outside", FailureCode.RUNTIME_ERROR),
        ("at_the_end", FailureCode.RUNTIME_ERROR),
        ("negative", FailureCode.RUNTIME_ERROR),
        ("trapping", FailureCode.RUNTIME_ERROR),
        ("asking_the_host", FailureCode.RUNTIME_ERROR),
        ("lying_the_second_time", FailureCode.RUNTIME_ERROR),
        ("null", FailureCode.MEMORY_EXHAUSTED),
        ("spinning", FailureCode.TIMEOUT),
    ],
)
def test_an_allocator_that_lies_ends_the_call(modules: Modules, allocator: str, code: FailureCode) -> None:
    services = MemoryServices({"key": "17"})
    assert code_of(call(modules, guest_with_allocator(allocator), "go", limits=SHORT, services=services)) is code


def test_an_allocator_may_log(modules: Modules) -> None:
    services = MemoryServices({"key": "17"})
    assert call(modules, guest_with_allocator("logging"), "go", services=services).value == 17
    assert services.lines == ["key", "key"]


def test_a_start_function_may_call_the_host(modules: Modules) -> None:
    services = MemoryServices({"key": "17"})
    assert call(modules, guest("start_calls"), "go", services=services).value == 17
    assert services.lines == ["starting"]


def test_a_length_beyond_the_limit_is_told_to_the_guest(modules: Modules) -> None:
    reply = call(modules, guest("hostile"), "host_length", services=MemoryServices())
    assert reply.value["error"]["code"] == "payload_too_large"


def test_ten_thousand_host_calls_are_served(modules: Modules) -> None:
    services = MemoryServices({"key": ""})
    reply = call(modules, guest("hostile"), "host_often", services=services)
    assert (reply.value, reply.host_calls) == (42, 10_000)


def test_ten_thousand_lines_of_log_are_cut(modules: Modules) -> None:
    services = MemoryServices()
    assert call(modules, guest("hostile"), "log_often", services=services).value == 42
    assert len(services.lines) == MAX_LOG_LINES
    assert services.lines[-1].startswith("further lines are dropped")


def test_a_guest_is_healthy_after_every_kind_of_failure_in_the_same_thread(modules: Modules) -> None:
    for export in ("give_up", "recurse", "reply_beyond", "host_pointer"):
        call(modules, guest("hostile"), export, services=MemoryServices())
        assert call(modules, guest("echo"), "echo", b"[1]").value == [1]
