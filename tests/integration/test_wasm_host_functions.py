"""The twelve host functions, from the guest's memory to the services and back."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from tests.guests.build import QUICK, guest, parts, source

from metacore.errors import NotFound, PermissionDenied
from metacore.wasm.abi import FailureCode, HostCode, Reply
from metacore.wasm.limits import MAX_HOST_REPLY_BYTES, Limits
from metacore.wasm.memory_services import Answer, MemoryServices
from metacore.wasm.ports import HostCall, HostError, HostReply, HostServices
from metacore.wasm.runtime import Runtime

HOST = source(guest("host"))


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with await Runtime.open(threads=2) as runtime:
        yield runtime


async def ask(
    runtime: Runtime, services: HostServices | None, function: str, *texts: bytes, limits: Limits = QUICK
) -> Reply:
    return await runtime.invoke("shop", HOST, function, parts(*texts), limits, services)


def error_of(reply: Reply) -> str:
    assert reply.failure is None
    assert reply.value["success"] is False
    assert reply.value["error"]["message"]
    return str(reply.value["error"]["code"])


async def test_a_line_is_logged(runtime: Runtime) -> None:
    services = MemoryServices()
    assert (await ask(runtime, services, "log", "grüezi".encode())).value is None
    assert services.lines == ["grüezi"]


async def test_a_setting_arrives_bare_and_a_missing_one_is_empty(runtime: Runtime) -> None:
    services = MemoryServices({"greeting": '"hello"'})
    assert (await ask(runtime, services, "env_get", b"greeting")).value == "hello"
    assert (await ask(runtime, services, "env_get", b"nothing")).value is None


async def test_a_page_arrives_bare_and_a_refusal_in_an_envelope(runtime: Runtime) -> None:
    services = MemoryServices(pages={"https://example.com/": b'{"page":1}'})
    assert (await ask(runtime, services, "http_fetch", b"https://example.com/", b"GET", b"")).value == {"page": 1}
    assert error_of(await ask(runtime, services, "http_fetch", b"http://127.0.0.1/", b"GET", b"")) == "forbidden"


async def test_a_full_http_request_is_answered_in_an_envelope(runtime: Runtime) -> None:
    services = MemoryServices(pages={"https://example.com/": b"page"})
    reply = await ask(runtime, services, "http_request", b'{"url":"https://example.com/"}')
    assert reply.value["data"] == {"status": 200, "headers": {}, "body": "page"}


async def test_credentials_arrive_bare(runtime: Runtime) -> None:
    services = MemoryServices(connectors={"crm": {"token": "t"}})
    assert (await ask(runtime, services, "connector_get", b"crm")).value == {"token": "t"}
    assert error_of(await ask(runtime, services, "connector_get", b"erp")) == "forbidden"


async def test_a_query_reaches_the_database_with_its_arguments(runtime: Runtime) -> None:
    asked: list[tuple[str, list[Any]]] = []

    def on_query(sql: str, args: list[Any]) -> Answer:
        asked.append((sql, args))
        # A fragment is what the database wrote itself.
        rows = orjson.Fragment(b'[{"id":1}]')
        return HostReply({"rows": rows, "rowCount": 1}, {"schema": "addon_shop", "truncated": False})

    services = MemoryServices(on_query=on_query)
    reply = await ask(runtime, services, "db_query", b"select $1", b'[{"$uuid":"x"}, 1, null]')
    assert reply.value == {
        "success": True,
        "data": {"rows": [{"id": 1}], "rowCount": 1},
        "meta": {"schema": "addon_shop", "truncated": False},
    }
    await ask(runtime, services, "db_query", b"select 1")
    assert asked == [("select $1", [{"$uuid": "x"}, 1, None]), ("select 1", [])]


async def test_an_error_of_the_database_keeps_its_sqlstate(runtime: Runtime) -> None:
    refused = HostError(HostCode.CONSTRAINT_VIOLATION, "duplicate", sqlstate="23505")
    services = MemoryServices(on_exec=lambda _sql, _args: refused)
    reply = await ask(runtime, services, "db_exec", b"insert", b"[]")
    assert reply.value == {
        "success": False,
        "error": {"code": "constraint_violation", "message": "duplicate", "sqlstate": "23505"},
    }


async def test_the_thirty_third_db_exec_is_refused(runtime: Runtime) -> None:
    seen: list[str] = []

    def on_exec(sql: str, _args: list[Any]) -> Answer:
        seen.append(sql)
        return HostReply({"rowsAffected": 1})

    services = MemoryServices(on_exec=on_exec)
    assert error_of(await ask(runtime, services, "exec_often", b"update")) == "db_exec_limit_exceeded"
    assert len(seen) == 32
    assert (await ask(runtime, services, "db_exec", b"update")).succeeded


async def test_an_event_is_emitted_with_and_without_payload(runtime: Runtime) -> None:
    services = MemoryServices()
    reply = await ask(runtime, services, "event_emit", b"order.paid", b'{"id":7}')
    assert reply.value == {"success": True, "data": {"event": "order.paid", "subscribers": 0}}
    await ask(runtime, services, "event_emit", b"order.seen")
    assert services.events == [("order.paid", {"id": 7}), ("order.seen", None)]


async def test_rows_are_made_counted_up_found_and_deleted(runtime: Runtime) -> None:
    services = MemoryServices()
    made = await ask(runtime, services, "data_mutate", b'{"op":"create","table":"stock","id":"a","data":{"n":1}}')
    assert made.value["data"]["after"] == {"id": "a", "n": 1}
    await ask(runtime, services, "data_batch", b'[{"op":"update","table":"stock","id":"a","inc":{"n":4}}]')
    wrapped = b'{"mutations":[{"op":"create","table":"stock","id":"b","data":{"n":5}}]}'
    await ask(runtime, services, "data_batch", wrapped)
    found = await ask(runtime, services, "data_query", b'{"table":"stock","where":{"n":5}}')
    assert found.value["data"]["rows"] == [{"id": "a", "n": 5}, {"id": "b", "n": 5}]
    await ask(runtime, services, "data_mutate", b'{"op":"delete","table":"stock","id":"a"}')
    gone = await ask(runtime, services, "data_mutate", b'{"op":"delete","table":"stock","id":"a"}')
    assert error_of(gone) == "not_found"


async def test_a_sequence_counts(runtime: Runtime) -> None:
    services = MemoryServices()
    request = b'{"model":"Invoice","key":"number"}'
    values = [(await ask(runtime, services, "sequence_next", request)).value["data"]["value"] for _ in range(2)]
    assert values == ["1", "2"]


@pytest.mark.parametrize(
    ("function", "texts", "code"),
    [
        ("db_query", (b"select 1", b"{]"), "arg_decode"),
        ("db_query", (b"select 1", b'{"a":1}'), "arg_decode"),
        ("db_query", (b"select \xff", b"[]"), "arg_decode"),
        ("db_query", (b" " * 16_385, b"[]"), "payload_too_large"),
        ("db_query", (b"select 1", b"[" + b"1," * 64 + b"1]"), "payload_too_large"),
        ("data_mutate", (b"[]",), "arg_decode"),
        ("data_mutate", (b"",), "arg_decode"),
        ("data_batch", (b"[" + b"{}," * 100 + b"{}]",), "payload_too_large"),
        ("data_batch", (b'{"other":[]}',), "arg_decode"),
        ("event_emit", (b"name", b"{"), "arg_decode"),
        ("env_get", (b"k" * 513,), "payload_too_large"),
    ],
)
async def test_an_argument_that_does_not_fit_never_reaches_the_services(
    runtime: Runtime, function: str, texts: tuple[bytes, ...], code: str
) -> None:
    class Untouched(MemoryServices):
        def __getattribute__(self, name: str) -> Any:
            if name == function:
                return lambda *_: pytest.fail("the service was called")
            return super().__getattribute__(name)

    assert error_of(await ask(runtime, Untouched(), function, *texts)) == code


async def test_a_reply_beyond_eight_megabytes_is_an_error_of_its_own(runtime: Runtime) -> None:
    services = MemoryServices({"large": "x" * (MAX_HOST_REPLY_BYTES + 1), "fits": '"' + "x" * 3_000_000 + '"'})
    assert error_of(await ask(runtime, services, "env_get", b"large")) == "payload_too_large"
    assert (await ask(runtime, services, "env_get", b"fits")).value == "x" * 3_000_000


class Failing(MemoryServices):
    """Services that fail in the ways in which services fail."""

    error: Exception = RuntimeError("the password is hunter2")

    async def data_query(self, call: HostCall, query: dict[str, Any]) -> Answer:
        raise self.error

    def env_get(self, call: HostCall, key: str) -> str | None:
        raise self.error


@pytest.mark.parametrize("function", ["data_query", "env_get"])
async def test_an_unforeseen_exception_tells_the_guest_nothing(runtime: Runtime, function: str) -> None:
    reply = await ask(runtime, Failing(), function, b"{}")
    assert error_of(reply) == "internal_error"
    assert b"hunter2" not in reply.raw


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionDenied("no db:read"), "forbidden"),
        (NotFound("no such model", code="unknown_model"), "unknown_model"),
    ],
)
async def test_our_own_errors_are_understood(runtime: Runtime, error: Exception, code: str) -> None:
    services = Failing()
    services.error = error
    assert error_of(await ask(runtime, services, "data_query", b"{}")) == code


async def test_an_answer_that_is_no_json_is_our_fault(runtime: Runtime) -> None:
    services = MemoryServices(on_query=lambda _sql, _args: HostReply(object()))
    assert error_of(await ask(runtime, services, "db_query", b"select 1")) == "internal_error"


async def test_without_services_every_answer_is_forbidden(runtime: Runtime) -> None:
    assert error_of(await ask(runtime, None, "env_get", b"key")) == "forbidden"
    assert error_of(await ask(runtime, None, "db_query", b"select 1")) == "forbidden"


class Hanging(MemoryServices):
    """A database that does not answer, and tells when it was told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.stopped = False

    async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.stopped = True
        raise AssertionError


async def test_time_in_a_host_call_counts_and_the_service_is_stopped_first(runtime: Runtime) -> None:
    services = Hanging()
    reply = await ask(runtime, services, "db_query", b"select pg_sleep(60)", limits=Limits(timeout=0.05))
    assert reply.failure is not None
    assert reply.failure.code is FailureCode.TIMEOUT
    assert "db_query" in reply.failure.message
    assert services.stopped


async def test_a_cancelled_caller_leaves_no_service_running(runtime: Runtime) -> None:
    services = Hanging()
    call = asyncio.create_task(ask(runtime, services, "db_query", b"select pg_sleep(60)"))
    await services.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert services.stopped


async def test_services_run_in_the_context_of_the_caller(runtime: Runtime) -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []

    class Services(MemoryServices):
        def log(self, call: HostCall, line: str) -> None:
            seen.append(request_id.get())

        async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
            seen.append(request_id.get())
            return HostReply()

    request_id.set("r-1")
    await ask(runtime, Services(), "log", b"line")
    await ask(runtime, Services(), "db_query", b"select 1")
    assert seen == ["r-1", "r-1"]


async def test_a_service_is_told_which_call_asks_and_how_long_it_has(runtime: Runtime) -> None:
    calls: list[HostCall] = []

    class Services(MemoryServices):
        async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
            calls.append(call)
            return HostReply()

    await ask(runtime, Services(), "db_query", b"select 1", limits=Limits(timeout=30))
    (call,) = calls
    assert (call.addon_key, call.export) == ("shop", "db_query")
    assert 0 < call.remaining() <= 30
