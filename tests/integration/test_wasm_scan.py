"""Which modules may be installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.guests.build import assemble, guest, guest_with_allocator

from metacore.errors import Refused
from metacore.wasm.engine import Engine
from metacore.wasm.limits import MIB, Limits
from metacore.wasm.modules import Modules
from metacore.wasm.scan import scan

SHORT = Limits(memory_bytes=8 * MIB, timeout=0.05)


@pytest.fixture(scope="module")
def modules() -> Iterator[Modules]:
    engine = Engine()
    modules = Modules(engine)
    yield modules
    engine.close()
    modules.close()


def problems(modules: Modules, wasm: bytes, *exports: str, limits: Limits = SHORT) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        scan(modules, wasm, exports, limits)
    assert refused.value.code == "wasm_refused"
    found = {problem.field: problem.code for problem in refused.value.problems}
    for field in list(found)[:5]:
        assert field in refused.value.message
    return found


def test_a_good_module_is_described(modules: Modules) -> None:
    scanned = scan(modules, guest("hostile"), ["spin", "recurse"], SHORT)
    assert scanned.host_functions == ("env_get", "log")
    assert (scanned.size, scanned.initial_memory_bytes) == (len(guest("hostile")), 2 * 65_536)


@pytest.mark.parametrize("name", ["runtime", "command", "start_calls"])
def test_what_language_runtimes_need_is_allowed(modules: Modules, name: str) -> None:
    assert scan(modules, guest(name), [], SHORT).digest


@pytest.mark.parametrize(
    "item",
    [
        '"metacore_host" "exec" (func (param i32 i32) (result i64))',
        '"wasi_snapshot_preview1" "sock_recv" (func (param i32 i32 i32 i32 i32 i32) (result i32))',
        '"wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32))',
        '"wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32))',
        '"env" "system" (func (param i32) (result i32))',
        '"env" "memory" (memory 1)',
        '"env" "table" (table 1 funcref)',
        '"env" "base" (global i32)',
    ],
)
def test_an_import_that_is_not_offered_is_refused_by_name(modules: Modules, item: str) -> None:
    module, name = item.split('"')[1], item.split('"')[3]
    memory = "" if "(memory" in item else '(memory (export "memory") 1)'
    allocator = '(func (export "alloc") (param i32) (result i32) (i32.const 8))'
    found = problems(modules, assemble(f"(module (import {item}) {memory} {allocator})"))
    assert found[f"import {module}.{name}"] == "import_not_allowed"


def test_an_import_with_another_signature_is_refused(modules: Modules) -> None:
    wasm = assemble("""(module (import "metacore_host" "log" (func (param i32)))
      (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 8)))""")
    assert problems(modules, wasm) == {"import metacore_host.log": "import_signature"}


def test_every_problem_of_the_imports_is_told_at_once(modules: Modules) -> None:
    wasm = assemble("""(module (import "env" "a" (func)) (import "env" "b" (func)))""")
    assert problems(modules, wasm) == {
        "import env.a": "import_not_allowed",
        "import env.b": "import_not_allowed",
        "export memory": "export_missing",
        "export alloc": "export_missing",
    }


def test_declared_functions_must_be_there_with_the_right_signature(modules: Modules) -> None:
    assert problems(modules, guest("echo"), "echo", "wrong", "absent", "memory") == {
        "export wrong": "export_signature",
        "export absent": "export_missing",
        "export memory": "export_missing",
    }


@pytest.mark.parametrize(
    "signature",
    ["(param i64) (result i32) (i32.const 0)", "(param i32) (result f64) (f64.const 0)", "(param i32)", ""],
)
def test_alloc_must_have_its_signature(modules: Modules, signature: str) -> None:
    wasm = assemble(f'(module (memory (export "memory") 1) (func (export "alloc") {signature}))')
    assert problems(modules, wasm) == {"export alloc": "export_signature"}


def test_a_memory_that_begins_beyond_the_limit_is_refused(modules: Modules) -> None:
    assert problems(modules, guest("host"), limits=Limits(memory_bytes=1 * MIB)) == {"export memory": "memory_limit"}


def test_a_start_function_that_does_not_end_is_refused(modules: Modules) -> None:
    assert problems(modules, guest("start_loops"), "go") == {"start": "timeout"}


@pytest.mark.parametrize(
    ("allocator", "code"),
    [
        ("trapping", "runtime_error"),
        ("outside", "runtime_error"),
        ("null", "memory_exhausted"),
        ("spinning", "timeout"),
    ],
)
def test_an_allocator_that_does_not_work_is_refused(modules: Modules, allocator: str, code: str) -> None:
    assert problems(modules, guest_with_allocator(allocator), "go") == {"start": code}


@pytest.mark.parametrize(
    "text",
    [
        '(module (memory (export "memory") 1 1 shared))',
        '(module (memory (export "memory") i64 1))',
        '(module (memory 1) (memory (export "memory") 1))',
        "(module (type (struct (field i32))))",
        "(module (tag (param i32)))",
    ],
    ids=["threads", "memory64", "two memories", "garbage collection", "exceptions"],
)
def test_proposals_outside_the_abi_are_refused(modules: Modules, text: str) -> None:
    with pytest.raises(Refused) as refused:
        scan(modules, assemble(text), [], SHORT)
    assert refused.value.code == "wasm_invalid"


def test_a_guest_that_recurses_while_it_starts_is_refused_in_a_process_of_small_stacks(modules: Modules) -> None:
    wasm = assemble("""(module (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const 8))
      (func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))
      (func $start (drop (call $deeper (i32.const 0)))) (start $start))""")
    before = threading.stack_size(256 * 1024)
    try:
        assert problems(modules, wasm) == {"start": "runtime_error"}
    finally:
        threading.stack_size(before)
