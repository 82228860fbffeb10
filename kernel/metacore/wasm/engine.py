"""The one engine of a process, and the thread whose ticks make deadlines pass."""

from __future__ import annotations

import threading
import time
from typing import Final

import wasmtime

from metacore.wasm.limits import MAX_WASM_STACK_BYTES

TICK_SECONDS: Final = 0.005
"""A deadline is noticed at the first tick after it. Shorter ticks cost wakeups for a precision that nobody needs."""

_LINGER_TICKS: Final = 100
"""Ticks without a guest after which the thread sleeps, so that calls in a row do not wake it each time."""

_OFF: Final = (
    "consume_fuel",  # Epochs cost 0.3 %, fuel 28 %.
    "wasm_threads",  # An atomic wait sleeps in the engine, where no deadline reaches it.
    "shared_memory",
    "wasm_memory64",
    "wasm_multi_memory",  # The memory limit holds per memory.
    "wasm_gc",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_stack_switching",
    "wasm_relaxed_simd",
    "wasm_custom_page_sizes",
    "wasm_wide_arithmetic",
)


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.max_wasm_stack = MAX_WASM_STACK_BYTES
    # Reserving the whole address range of a 32-bit memory costs no memory, and lets the compiler drop bounds checks.
    config.memory_reservation = 4 << 30
    config.memory_init_cow = True
    for feature in _OFF:
        setattr(config, feature, False)
    return config


class Engine:
    """`raw` compiles and runs. `enter` and `leave` bracket every run of a guest: without ticks no deadline passes."""

    def __init__(self) -> None:
        self.raw = wasmtime.Engine(_config())
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._running = 0
        self._parked = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        with self._lock:
            self._running += 1
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._tick, name="metacore-wasm-ticks", daemon=True)
                self._thread.start()
            elif self._parked:
                self._parked = False
                self._wake.set()

    def leave(self) -> None:
        with self._lock:
            self._running -= 1

    def close(self) -> None:
        """Stop the ticks; only once no guest runs any more."""
        with self._lock:
            self._stopped = True
            thread, self._thread = self._thread, None
            self._wake.set()
        if thread is not None:
            thread.join()

    def _tick(self) -> None:
        idle = 0
        while not self._stopped:
            time.sleep(TICK_SECONDS)
            self.raw.increment_epoch()
            idle = 0 if self._running else idle + 1
            if idle > _LINGER_TICKS:
                self._park()
                idle = 0

    def _park(self) -> None:
        with self._lock:
            if self._running or self._stopped:
                return
            self._parked = True
            self._wake.clear()
        self._wake.wait()
