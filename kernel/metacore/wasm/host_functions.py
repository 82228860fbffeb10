"""The functions of module `metacore_host`, and the one way in which all of them are called.

A call reads its arguments out of the guest's memory, asks `ports.HostServices`, and writes the answer through the
guest's `alloc`. It never raises: what goes wrong becomes an envelope with a code, or, when the guest broke the ABI
itself, the end of the guest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import orjson

from metacore.errors import MetacoreError, PayloadTooLarge, PermissionDenied, Refused
from metacore.logs import get_logger
from metacore.wasm.abi import HOST_MODULE, FailureCode, HostCode, Signature, Wasm, pack
from metacore.wasm.bridge import CallExpired
from metacore.wasm.calls import GuestStopped, HostImport
from metacore.wasm.guest import Guest
from metacore.wasm.limits import (
    MAX_BATCH,
    MAX_DB_EXEC_CALLS,
    MAX_HOST_REPLY_BYTES,
    MAX_HOST_REQUEST_BYTES,
    MAX_LOG_LINE_BYTES,
    MAX_NAME_BYTES,
    MAX_SQL_ARGUMENTS,
    MAX_SQL_BYTES,
    MAX_URL_BYTES,
)
from metacore.wasm.ports import HostError, HostReply

log = get_logger(__name__)


class _Kind(Enum):
    TEXT = auto()
    BYTES = auto()
    OBJECT = auto()
    LIST = auto()
    ANY = auto()


@dataclass(frozen=True, slots=True)
class Argument:
    """A pair (pointer, length) of the signature. At most `size` bytes, or cut to them; a list has at most `items`, and
    may come as an object that holds it under the argument's name."""

    name: str
    kind: _Kind
    size: int = MAX_HOST_REQUEST_BYTES
    items: int = 0
    cut: bool = False


class Answer(Enum):
    NOTHING = auto()
    """A void function."""
    BARE = auto()
    """The value as it is; 0 for none. Errors come as an envelope all the same."""
    ENVELOPE = auto()


@dataclass(frozen=True, slots=True)
class HostFunctionSpec:
    """One row of the contract's list. `waits` tells whether the service is asynchronous."""

    name: str
    arguments: tuple[Argument, ...]
    answer: Answer = Answer.ENVELOPE
    waits: bool = True
    calls: int | None = None
    """At most so many per invocation."""

    @property
    def signature(self) -> Signature:
        result = None if self.answer is Answer.NOTHING else Wasm.I64
        return Signature((Wasm.I32, Wasm.I32) * len(self.arguments), result)


_SQL: Final = (
    Argument("sql", _Kind.TEXT, MAX_SQL_BYTES),
    Argument("args", _Kind.LIST, items=MAX_SQL_ARGUMENTS),
)
FUNCTIONS: Final = (
    HostFunctionSpec(
        "log", (Argument("line", _Kind.BYTES, MAX_LOG_LINE_BYTES, cut=True),), Answer.NOTHING, waits=False
    ),
    HostFunctionSpec("env_get", (Argument("key", _Kind.TEXT, MAX_NAME_BYTES),), Answer.BARE, waits=False),
    HostFunctionSpec(
        "http_fetch",
        (
            Argument("url", _Kind.TEXT, MAX_URL_BYTES),
            Argument("method", _Kind.TEXT, MAX_NAME_BYTES),
            Argument("body", _Kind.BYTES),
        ),
        Answer.BARE,
    ),
    HostFunctionSpec("http_request", (Argument("request", _Kind.OBJECT),)),
    HostFunctionSpec("connector_get", (Argument("key", _Kind.TEXT, MAX_NAME_BYTES),), Answer.BARE),
    HostFunctionSpec("db_query", _SQL),
    HostFunctionSpec("db_exec", _SQL, calls=MAX_DB_EXEC_CALLS),
    HostFunctionSpec("event_emit", (Argument("name", _Kind.TEXT, MAX_NAME_BYTES), Argument("payload", _Kind.ANY))),
    HostFunctionSpec("data_mutate", (Argument("mutation", _Kind.OBJECT),)),
    HostFunctionSpec("data_query", (Argument("query", _Kind.OBJECT),)),
    HostFunctionSpec("data_batch", (Argument("mutations", _Kind.LIST, items=MAX_BATCH),)),
    HostFunctionSpec("sequence_next", (Argument("request", _Kind.OBJECT),)),
)


class _Unusable(Refused):
    """An argument that the service must not see. Never leaves this module."""

    def __init__(self, error: HostError) -> None:
        super().__init__(error.message)
        self.error = error


def host_imports() -> tuple[HostImport, ...]:
    """What the linker defines."""
    return tuple(HostImport(HOST_MODULE, spec.name, spec.signature, partial(_enter, spec=spec)) for spec in FUNCTIONS)


def _enter(guest: Guest, *pairs: int, spec: HostFunctionSpec) -> int | None:
    """Where the guest arrives. Gives the packed reply; None for a void function."""
    answers = spec.answer is not Answer.NOTHING
    try:
        guest.host_calls += 1
        if guest.allocating and answers:
            guest.fail(FailureCode.RUNTIME_ERROR, f"alloc called {spec.name}, whose reply would need alloc")
            return 0
        raw = [_take(guest, argument, *pairs[2 * index :][:2]) for index, argument in enumerate(spec.arguments)]
        reply = _ask(guest, spec, raw)
        return pack(guest.place(reply), len(reply)) if answers and not guest.stopped else 0
    except GuestStopped as stopped:
        failure = guest.failure_of(stopped)
        guest.fail(failure.code, f"{spec.name}: {failure.message}", failure.detail)
    except Exception as error:
        log.exception("wasm.host_call_failed", function=spec.name, addon=guest.call.addon_key)
        guest.fail(FailureCode.RUNTIME_ERROR, f"{spec.name}: the host failed", type(error).__name__)
    return 0 if answers else None


def _take(guest: Guest, argument: Argument, pointer: int, length: int) -> bytes | HostError:
    if length > argument.size:
        if argument.cut:
            return guest.read(pointer, argument.size)
        return HostError(HostCode.PAYLOAD_TOO_LARGE, f"{argument.name} has {length} bytes, at most {argument.size}")
    return guest.read(pointer, length)


def _ask(guest: Guest, spec: HostFunctionSpec, raw: list[bytes | HostError]) -> bytes:
    """The bytes of the answer; b"" for none."""
    services = guest.services
    if spec.answer is Answer.NOTHING:
        assert isinstance(raw[0], bytes)
        guest.log_line(raw[0])
        return b""
    if services is None:
        return _failure(HostError(HostCode.FORBIDDEN, "there is no host during this run"))
    try:
        if spec.calls is not None:
            count = guest.calls_by_name[spec.name] = guest.calls_by_name.get(spec.name, 0) + 1
            if count > spec.calls:
                return _failure(HostError(HostCode.DB_EXEC_LIMIT_EXCEEDED, f"at most {spec.calls} calls"))
        arguments = [_decode(*pair) for pair in zip(spec.arguments, raw, strict=True)]
        service: Callable[..., Any] = getattr(services, spec.name)
        if not spec.waits:
            answer = service(guest.call, *arguments)
        elif guest.bridge is not None:
            answer = guest.bridge.wait(partial(service, guest.call, *arguments), guest.call.remaining())
        else:
            answer = HostError(HostCode.FORBIDDEN, "there is no event loop during this run")
    except _Unusable as unusable:
        return _failure(unusable.error)
    except CallExpired:
        code = FailureCode.CANCELLED if guest.cancelled else FailureCode.TIMEOUT
        guest.fail(code, f"no reply within {guest.limits.timeout:g} s: {spec.name} took the rest")
        return b""
    except MetacoreError as error:
        return _failure(_as_host_error(error))
    except Exception:
        if not guest.host_failed:  # A guest that tries again and again must not fill the log.
            guest.host_failed = True
            log.exception("wasm.host_service_failed", function=spec.name, addon=guest.call.addon_key)
        return _failure(HostError(HostCode.INTERNAL_ERROR, "the host failed"))
    return _encode(spec, answer)


def _decode(argument: Argument, raw: bytes | HostError) -> Any:
    if isinstance(raw, HostError):
        raise _Unusable(raw)
    if argument.kind is _Kind.BYTES:
        return raw
    try:
        if argument.kind is _Kind.TEXT:
            return raw.decode("utf-8")
        value: Any = orjson.loads(raw) if raw else [] if argument.kind is _Kind.LIST else None
    except ValueError as error:
        raise _Unusable(HostError(HostCode.ARG_DECODE, f"{argument.name}: {error}"[:300])) from None
    if argument.kind is _Kind.LIST and isinstance(value, dict):
        value = value.get(argument.name)
    wanted = {_Kind.OBJECT: dict, _Kind.LIST: list}.get(argument.kind)
    if wanted is not None and not isinstance(value, wanted):
        kind = "an object" if wanted is dict else "an array"
        raise _Unusable(HostError(HostCode.ARG_DECODE, f"{argument.name} must be {kind}"))
    if argument.kind is _Kind.LIST and len(value) > argument.items:
        raise _Unusable(
            HostError(HostCode.PAYLOAD_TOO_LARGE, f"{argument.name} has {len(value)} items, at most {argument.items}")
        )
    return value


def _encode(spec: HostFunctionSpec, answer: Any) -> bytes:
    if isinstance(answer, HostError):
        return _failure(answer)
    try:
        if isinstance(answer, HostReply):
            envelope = {"success": True, "data": answer.data}
            reply = orjson.dumps(envelope | {"meta": answer.meta} if answer.meta is not None else envelope)
        elif answer is None:
            return b""
        elif isinstance(answer, bytes):
            reply = answer
        else:
            reply = answer.encode() if isinstance(answer, str) else orjson.dumps(answer)
    except (TypeError, ValueError):
        log.exception("wasm.host_reply_unwritable", function=spec.name)
        return _failure(HostError(HostCode.INTERNAL_ERROR, "the host's reply is not JSON"))
    if len(reply) > MAX_HOST_REPLY_BYTES:
        message = f"the reply has {len(reply)} bytes, at most {MAX_HOST_REPLY_BYTES}"
        return _failure(HostError(HostCode.PAYLOAD_TOO_LARGE, message))
    return reply


def _as_host_error(error: MetacoreError) -> HostError:
    if isinstance(error, PermissionDenied):
        return HostError(HostCode.FORBIDDEN, error.message)
    if isinstance(error, PayloadTooLarge):
        return HostError(HostCode.PAYLOAD_TOO_LARGE, error.message)
    return HostError(error.code, error.message)


def _failure(error: HostError) -> bytes:
    body: dict[str, Any] = {"code": str(error.code), "message": error.message}
    if error.sqlstate:
        body["sqlstate"] = error.sqlstate
    return orjson.dumps({"success": False, "error": body})
