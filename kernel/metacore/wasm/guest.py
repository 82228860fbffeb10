"""One invocation as its host functions see it: the guest's memory, its time, and why it had to end."""

from __future__ import annotations

import ctypes
import math
import time
from typing import Final

from metacore.wasm.abi import Failure, FailureCode
from metacore.wasm.bridge import LoopBridge
from metacore.wasm.calls import GuestCalls, GuestStopped, StopKind
from metacore.wasm.engine import TICK_SECONDS
from metacore.wasm.limits import KIB, MAX_LOG_LINE_BYTES, MAX_LOG_LINES, MIB, Limits
from metacore.wasm.ports import HostCall, HostServices

SLICE_TICKS: Final = 4
"""A running guest is looked after this often, so that a cancelled one ends within 20 ms."""

_STDERR_TAIL: Final = 4 * KIB
_OUT_OF_MEMORY: Final = (b"out of memory", b"memory allocation of", b"cannot allocate memory")
"""What the runtimes of Go and TinyGo, Rust, and C print before they give up."""


class Guest:
    """The supervisor of one call. It lives in one worker thread; only `cancel` may come from another.

    `services` and `bridge` are None where there is no host, as in an installation's trial run.
    """

    def __init__(
        self, call: HostCall, limits: Limits, services: HostServices | None = None, bridge: LoopBridge | None = None
    ) -> None:
        self.call = call
        self.limits = limits
        self.services = services
        self.bridge = bridge
        self.calls: GuestCalls | None = None
        self.stopped = False
        self.cancelled = False
        self.failure: Failure | None = None
        self.exit_code: int | None = None
        self.allocating = False
        self.host_calls = 0
        self.calls_by_name: dict[str, int] = {}
        self.host_failed = False
        self.started_ns = time.monotonic_ns()
        self.stderr_tail = b""
        self._lines_left = MAX_LOG_LINES
        self._partial: dict[int, bytes] = {}

    def ticks(self) -> int:
        """See `calls.Supervisor`: the ticks up to the deadline, at most a slice."""
        if self.stopped:
            return 0
        left = self.call.remaining()
        if self.cancelled or left <= 0:
            self.stopped = True
            return 0
        return min(SLICE_TICKS, math.floor(left / TICK_SECONDS) + 1)

    def cancel(self) -> None:
        self.cancelled = True

    def fail(self, code: FailureCode, message: str, detail: str = "") -> None:
        """End the guest; the first reason stands."""
        if self.failure is None:
            self.failure = Failure(code, message, detail)
        self.stopped = True

    def exit(self, code: int) -> None:
        self.exit_code = code
        self.stopped = True

    def read(self, pointer: int, length: int) -> bytes:
        """A copy of the guest's bytes. Raises GuestStopped when they do not lie in its memory."""
        if not length:
            return b""
        return ctypes.string_at(self._at(pointer, length), length)

    def write(self, pointer: int, data: bytes) -> None:
        """Raises GuestStopped when `data` does not fit there."""
        if data:
            ctypes.memmove(self._at(pointer, len(data)), data, len(data))

    def place(self, data: bytes) -> int:
        """Write `data` where the guest's own `alloc` says, and give the pointer. Raises GuestStopped."""
        if not data:
            return 0
        assert self.calls is not None
        self.allocating = True
        try:
            pointer = self.calls.alloc(len(data))
        finally:
            self.allocating = False
        if pointer == 0:
            raise GuestStopped(StopKind.LIMIT, "alloc returned null")
        self.write(pointer, data)
        return pointer

    def memory_bytes(self) -> int:
        return self.calls.memory()[1] if self.calls is not None else 0

    def sleep(self, seconds: float) -> None:
        """Let the guest sleep, at most to its deadline; a cancelled one wakes within 20 ms."""
        until = time.monotonic() + seconds
        while self.ticks() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_TICKS * TICK_SECONDS, self.call.remaining() + 0.001))

    def log_line(self, line: bytes) -> None:
        """Hand one line to the addon's log; what exceeds the limits is cut or dropped."""
        if self.services is None or self._lines_left <= 0:
            return
        self._lines_left -= 1
        text = line[:MAX_LOG_LINE_BYTES].decode("utf-8", "replace")
        self.services.log(self.call, text if self._lines_left else f"further lines are dropped after: {text}")

    def print(self, descriptor: int, text: bytes) -> None:
        """What the guest writes to standard output (1) or error (2): lines of the addon's log."""
        if descriptor == 2:
            self.stderr_tail = (self.stderr_tail + text)[-_STDERR_TAIL:]
        *lines, rest = (self._partial.get(descriptor, b"") + text).split(b"\n", MAX_LOG_LINES)
        for line in lines:
            self.log_line(line)
        self._partial[descriptor] = rest[-MAX_LOG_LINE_BYTES:]

    def end_output(self) -> None:
        for line in self._partial.values():
            if line:
                self.log_line(line)
        self._partial.clear()

    def failure_of(self, stopped: GuestStopped) -> Failure:
        """Why the guest did not return."""
        if self.failure is not None:
            return self.failure
        if self.cancelled:
            return Failure(FailureCode.CANCELLED, "the caller went away", stopped.detail)
        if self.exit_code is not None:
            return self._gave_up(f"the guest exited with code {self.exit_code}", stopped.detail)
        if stopped.kind is StopKind.LIMIT:
            return Failure(FailureCode.MEMORY_EXHAUSTED, stopped.message, stopped.detail)
        if stopped.kind is StopKind.INTERRUPTED:
            if self.call.remaining() <= 0:
                return Failure(FailureCode.TIMEOUT, f"no reply within {self.limits.timeout:g} s", stopped.detail)
            return Failure(FailureCode.RUNTIME_ERROR, "the host ended the guest", stopped.detail)
        return self._gave_up(stopped.message, stopped.detail)

    def _gave_up(self, message: str, detail: str) -> Failure:
        """A runtime without memory traps or exits like for any other reason, and the engine does not report a `grow`
        that it refused: so what the runtime printed, and how full the memory is, have to tell."""
        free = self.limits.memory_bytes - self.memory_bytes()
        printed = any(words in self.stderr_tail.lower() for words in _OUT_OF_MEMORY)
        if printed or free < min(1 * MIB, self.limits.memory_bytes // 8):
            return Failure(FailureCode.MEMORY_EXHAUSTED, f"out of memory ({message})", detail)
        return Failure(FailureCode.RUNTIME_ERROR, message, detail)

    def _at(self, pointer: int, length: int) -> int:
        assert self.calls is not None
        address, size = self.calls.memory()
        if pointer + length > size:
            raise GuestStopped(StopKind.TRAP, "a pointer outside the guest's memory")
        return address + pointer
