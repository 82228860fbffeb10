"""Packing, limits and what a reply means, without an engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.manifest.parts import Backend
from metacore.wasm.abi import Failure, FailureCode, Reply, pack, unpack
from metacore.wasm.host_functions import FUNCTIONS, host_imports
from metacore.wasm.limits import MIB, Ceiling, limits_of

U32 = st.integers(0, 2**32 - 1)


@given(U32, U32)
def test_a_packed_pair_is_read_back_from_a_signed_and_an_unsigned_result(pointer: int, length: int) -> None:
    packed = pack(pointer, length)
    signed = packed - (1 << 64) if packed >= 1 << 63 else packed
    assert unpack(packed) == unpack(signed) == (pointer, length)


@pytest.mark.parametrize(
    ("value", "succeeded"),
    [
        (None, True),
        (42, True),
        ([], True),
        ({}, True),
        ({"data": 1}, True),
        ({"success": True, "error": None}, True),
        ({"success": False}, False),
        ({"success": "yes"}, False),
        ({"error": {"code": "not_found"}}, False),
        ({"error": "no"}, False),
    ],
)
def test_a_reply_succeeds_when_the_guest_says_so(value: object, succeeded: bool) -> None:
    assert Reply(value).succeeded is succeeded


def test_a_failure_is_the_error_of_the_contract() -> None:
    reply = Reply(failure=Failure(FailureCode.RUNTIME_ERROR, "a trap", "where it was"))
    assert not reply.succeeded
    assert reply.as_json() == {"error": {"code": "runtime_error", "message": "a trap"}}


def test_the_limits_of_a_manifest_are_capped() -> None:
    asked = limits_of(Backend(runtime="wasm", memory_limit_mb=16, timeout_ms=250))
    assert (asked.memory_bytes, asked.timeout) == (16 * MIB, 0.25)
    greedy = limits_of(Backend(runtime="wasm", memory_limit_mb=9_999, timeout_ms=9_999_999), Ceiling(32 * MIB, 2.0))
    assert (greedy.memory_bytes, greedy.timeout) == (32 * MIB, 2.0)


def test_the_twelve_host_functions_have_the_signatures_of_the_abi() -> None:
    assert {item.name: str(item.signature) for item in host_imports()} == {
        "log": "(i32, i32) -> ()",
        "env_get": "(i32, i32) -> i64",
        "http_fetch": "(i32, i32, i32, i32, i32, i32) -> i64",
        "http_request": "(i32, i32) -> i64",
        "connector_get": "(i32, i32) -> i64",
        "db_query": "(i32, i32, i32, i32) -> i64",
        "db_exec": "(i32, i32, i32, i32) -> i64",
        "event_emit": "(i32, i32, i32, i32) -> i64",
        "data_mutate": "(i32, i32) -> i64",
        "data_query": "(i32, i32) -> i64",
        "data_batch": "(i32, i32) -> i64",
        "sequence_next": "(i32, i32) -> i64",
    }
    assert len(FUNCTIONS) == 12
