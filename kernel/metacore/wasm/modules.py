"""Compiled modules by digest: compiled once, kept on disk, linked once per process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import wasmtime

from metacore.errors import Refused
from metacore.logs import get_logger
from metacore.wasm.cache_directory import Artifact, CacheDirectory
from metacore.wasm.call_paths import choose_path
from metacore.wasm.calls import CallPath, Linked
from metacore.wasm.engine import Engine
from metacore.wasm.host_functions import host_imports
from metacore.wasm.interface import Interface, has_start_function, interface_of, is_core_module, problems_of
from metacore.wasm.limits import MAX_MODULE_BYTES, MIB
from metacore.wasm.wasi import wasi_imports

log = get_logger(__name__)

IN_MEMORY: Final = 64
"""Linked modules kept in memory; the least recently used one makes room."""

_ENGINE_VERSION: Final = version("wasmtime")


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """Ready to be called. `functions` are the exports that an invocation may name."""

    digest: str
    linked: Linked
    interface: Interface
    functions: frozenset[str]
    initializer: str | None


class Modules:
    """All methods may be called from any thread; `load` works for up to seconds."""

    def __init__(
        self,
        engine: Engine,
        directory: Path | None = None,
        *,
        path: CallPath | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        """`directory` keeps compiled modules over restarts; without one they live in memory only.

        Raises:
            Misconfigured: others may write the directory.
        """
        self.engine = engine
        self.path = path or choose_path(engine)
        self.imports = host_imports() + wasi_imports()
        self._linker = wasmtime.Linker(engine.raw)
        self.path.define(self._linker, self.imports)
        self._directory = CacheDirectory(directory) if directory is not None else None
        self._capacity = in_memory
        self._loaded: OrderedDict[str, LoadedModule] = OrderedDict()
        self._lock = threading.Lock()
        self._gates: dict[str, threading.Lock] = {}

    def close(self) -> None:
        with self._lock:
            self._loaded.clear()
        if self._directory is not None:
            self._directory.close()

    def loaded(self, digest: str) -> LoadedModule | None:
        """The module, if it is in memory; never waits."""
        with self._lock:
            module = self._loaded.get(digest)
            if module is not None:
                self._loaded.move_to_end(digest)
            return module

    def load(self, digest: str, read: Callable[[], bytes]) -> LoadedModule:
        """The module whose binary has this SHA-256 (hex): from memory, from disk, or compiled from what `read` gives.

        Raises:
            Refused: `read` gave other bytes, no valid module, or one that does not fit the ABI.
        """
        module = self.loaded(digest)
        if module is not None:
            return module
        with self._lock:
            gate = self._gates.setdefault(digest, threading.Lock())
        with gate:
            try:
                return self.loaded(digest) or self._keep(self._restore(digest) or self._compile(digest, read()))
            finally:
                with self._lock:
                    self._gates.pop(digest, None)

    def _compile(self, digest: str, wasm: bytes) -> LoadedModule:
        if hashlib.sha256(wasm).hexdigest() != digest:
            raise Refused("the WASM module is not the one that was verified", code="digest_mismatch")
        if len(wasm) > MAX_MODULE_BYTES:
            limit = MAX_MODULE_BYTES // MIB
            raise Refused(f"the WASM module is larger than {limit} MiB", code="wasm_too_large")
        if not is_core_module(wasm):
            raise Refused("this is no WASM module in the binary format", code="wasm_invalid")
        began = time.perf_counter()
        try:
            module = wasmtime.Module(self.engine.raw, wasm)
        except wasmtime.WasmtimeError as error:
            raise Refused(f"the WASM module is not valid: {_first_lines(error)}", code="wasm_invalid") from error
        starts = has_start_function(wasm)
        log.info("wasm.compiled", digest=digest, seconds=round(time.perf_counter() - began, 3))
        linked = self._link(digest, module, starts=starts)
        if self._directory is not None:
            try:
                self._directory.write(_name(digest), module.serialize(), starts=starts)
            except OSError as error:
                log.warning("wasm.cache_not_written", digest=digest, error=str(error))
        return linked

    def _restore(self, digest: str) -> LoadedModule | None:
        if self._directory is None:
            return None
        with self._directory.open(_name(digest)) as artifact:
            if artifact is None:
                return None
            try:
                module = self._deserialize(artifact)
            except wasmtime.WasmtimeError as error:
                log.info("wasm.cache_of_another_engine", digest=digest, error=_first_lines(error))
                return None
            return self._link(digest, module, starts=artifact.starts)

    def _deserialize(self, artifact: Artifact) -> wasmtime.Module:
        if Path(artifact.path).exists():
            return wasmtime.Module.deserialize_file(self.engine.raw, artifact.path)
        with open(artifact.descriptor, "rb", closefd=False) as file:
            return wasmtime.Module.deserialize(self.engine.raw, file.read())

    def _link(self, digest: str, module: wasmtime.Module, *, starts: bool) -> LoadedModule:
        interface = interface_of(module)
        problems = problems_of(interface, self.imports, ())
        if problems:
            told = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:5])
            raise Refused(f"the WASM module does not fit the ABI: {told}", code="wasm_refused", problems=problems)
        linked = self.path.link(self._linker, module, starts=starts)
        return LoadedModule(digest, linked, interface, interface.callable_functions, interface.initializer)

    def _keep(self, module: LoadedModule) -> LoadedModule:
        with self._lock:
            self._loaded[module.digest] = module
            while len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
        return module


def _name(digest: str) -> str:
    return f"{digest}-wasmtime-{_ENGINE_VERSION}"


def _first_lines(error: wasmtime.WasmtimeError) -> str:
    return " ".join(str(error).split())[:300]
