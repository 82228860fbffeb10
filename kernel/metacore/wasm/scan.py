"""What is asked of a module before it is installed: that it fits the ABI and starts within its limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from metacore.errors import Problem, Refused
from metacore.wasm.calls import GuestStopped
from metacore.wasm.guest import Guest
from metacore.wasm.instance import prepare
from metacore.wasm.interface import problems_of
from metacore.wasm.limits import MIB, Limits
from metacore.wasm.modules import LoadedModule, Modules
from metacore.wasm.ports import HostCall, deadline_in
from metacore.wasm.threads import run_in_guest_thread

TRIAL_SECONDS: Final = 2.0
"""A module has this long to start, however long its calls may take."""
_TRIAL_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Scanned:
    """A module that may be installed. `host_functions` are those that it imports, by name."""

    digest: str
    size: int
    host_functions: tuple[str, ...]
    initial_memory_bytes: int


def scan(modules: Modules, wasm: bytes, exports: Iterable[str], limits: Limits) -> Scanned:
    """Check everything that can be known without a request; compiles, so it belongs into a thread.

    Raises:
        Refused: codes `wasm_too_large`, `wasm_invalid`, or `wasm_refused` with every problem found.
    """
    digest = hashlib.sha256(wasm).hexdigest()
    module = modules.load(digest, lambda: wasm)
    interface = module.interface
    problems = problems_of(interface, modules.imports, exports)
    memory = interface.memory_bytes or 0
    if memory > limits.memory_bytes:
        message = f"it begins with {memory // MIB} MiB, more than the limit of {limits.memory_bytes // MIB} MiB"
        problems.append(Problem("export memory", "memory_limit", message))
    if not problems:
        problems = run_in_guest_thread(partial(_trial, modules, module, limits), "metacore-wasm-trial")
    if problems:
        told = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:5])
        raise Refused(f"the WASM module does not fit the ABI: {told}", code="wasm_refused", problems=problems)
    return Scanned(digest, len(wasm), interface.host_functions, memory)


def _trial(modules: Modules, module: LoadedModule, limits: Limits) -> list[Problem]:
    """Start the module once, without a host, and let it allocate."""
    limits = replace(limits, timeout=min(limits.timeout, TRIAL_SECONDS))
    guest = Guest(HostCall("", "alloc", deadline_in(limits.timeout)), limits)
    modules.engine.enter()
    calls = modules.path.open(module.linked, "", limits, guest)
    guest.calls = calls
    try:
        prepare(module, calls, guest)
        guest.place(bytes(_TRIAL_BYTES))
        failure = guest.failure
    except GuestStopped as stopped:
        failure = guest.failure_of(stopped)
    finally:
        guest.calls = None
        calls.close()
        modules.engine.leave()
    return [] if failure is None else [Problem("start", failure.code.value, failure.message)]
