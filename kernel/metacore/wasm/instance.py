"""One call of one export: a fresh instance, the request in, the reply out, and nothing left behind."""

from __future__ import annotations

import time

import orjson

from metacore.wasm.abi import Failure, FailureCode, Reply, unpack
from metacore.wasm.calls import GuestCalls, GuestStopped, StopKind
from metacore.wasm.guest import Guest
from metacore.wasm.modules import LoadedModule, Modules


def call_export(modules: Modules, module: LoadedModule, export: str, request: bytes, guest: Guest) -> Reply:
    """Run `export` with `request` (JSON) to its end in this thread; never raises for what the guest does.

    The thread needs a stack of THREAD_STACK_BYTES, as `threads.start_guest_thread` gives.

    `export` is one of `module.functions`.
    """
    began = time.perf_counter()
    value, raw = None, b""
    failure: Failure | None = None
    if len(request) > guest.limits.request_bytes:
        return Reply(failure=Failure(FailureCode.PAYLOAD_TOO_LARGE, "the request is larger than its limit"))
    modules.engine.enter()
    calls = modules.path.open(module.linked, export, guest.limits, guest)
    guest.calls = calls
    try:
        prepare(module, calls, guest)
        raw = _reply(guest, calls.run(guest.place(request), len(request)))
        if guest.stopped:
            # It came back although a host function had ended it: there was neither a loop nor a call on its way.
            raise GuestStopped(StopKind.INTERRUPTED, "interrupted")
        if raw:
            value = orjson.loads(raw)
    except GuestStopped as stopped:
        failure = guest.failure_of(stopped)
    except orjson.JSONDecodeError as error:
        failure = Failure(FailureCode.INVALID_REPLY, f"the reply is not JSON: {error}"[:300])
    finally:
        memory = guest.memory_bytes()
        guest.calls = None
        calls.close()
        modules.engine.leave()
    guest.end_output()
    if failure is not None:
        value, raw = None, b""
    return Reply(value, raw, failure, time.perf_counter() - began, memory, guest.host_calls)


def prepare(module: LoadedModule, calls: GuestCalls, guest: Guest) -> None:
    """Make the instance and let the guest's runtime initialize itself. Raises GuestStopped."""
    calls.instantiate()
    if module.initializer:
        try:
            calls.start(module.initializer)
        except GuestStopped:
            # A command's `_start` may end with exit code 0 and its functions are meant to work afterwards.
            if guest.exit_code != 0 or guest.failure is not None:
                raise
            guest.exit_code, guest.stopped = None, False
            calls.resume()


def _reply(guest: Guest, packed: int) -> bytes:
    pointer, length = unpack(packed)
    if not packed or not length:
        return b""
    if length > guest.limits.reply_bytes:
        guest.fail(FailureCode.PAYLOAD_TOO_LARGE, f"the reply has {length} bytes, more than {guest.limits.reply_bytes}")
        return b""
    return guest.read(pointer, length)
