"""Reading a module's sections, without running it."""

from __future__ import annotations

import pytest
from tests.guests.build import assemble, guest

from metacore.wasm.interface import has_start_function, is_core_module


@pytest.mark.parametrize(("name", "starts"), [("start_loops", True), ("start_calls", True), ("echo", False)])
def test_a_start_function_is_found(name: str, starts: bool) -> None:
    assert has_start_function(guest(name)) is starts


def test_a_start_function_is_found_behind_long_sections() -> None:
    functions = "(func)" * 5_000
    assert has_start_function(assemble(f"(module {functions} (func $start) (start $start))"))
    assert not has_start_function(assemble(f"(module {functions})"))


@pytest.mark.parametrize("content", [b"", b"\0asm", b"(module)", b"\0asm\x0d\0\x01\0", b"\x7fELF"])
def test_only_binary_core_modules_are_taken(content: bytes) -> None:
    assert not is_core_module(content)
    assert is_core_module(guest("echo"))
