"""What a compiled module imports and exports, held against the ABI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import wasmtime

from metacore.errors import Problem
from metacore.wasm.abi import (
    ALLOC_EXPORT,
    ALLOC_SIGNATURE,
    EXPORT_SIGNATURE,
    HOST_MODULE,
    INITIALIZER_SIGNATURE,
    INITIALIZERS,
    MEMORY_EXPORT,
    PAGE_BYTES,
    Signature,
    Wasm,
)
from metacore.wasm.calls import HostImport

_MAX_SHOWN: Final = 100
_WASM_HEADER: Final = b"\0asm\x01\0\0\0"
_START_SECTION: Final = 8


@dataclass(frozen=True, slots=True)
class Interface:
    """`imports` by (module, name); `functions` are exports by name. A signature of None is one the ABI cannot have.

    `memory_bytes` is what the exported memory begins with, None when there is none to export.
    """

    imports: Mapping[tuple[str, str], Signature | None]
    functions: Mapping[str, Signature | None]
    memory_bytes: int | None

    @property
    def initializer(self) -> str | None:
        return next((name for name in INITIALIZERS if self.functions.get(name) == INITIALIZER_SIGNATURE), None)

    @property
    def callable_functions(self) -> frozenset[str]:
        return frozenset(name for name, signature in self.functions.items() if signature == EXPORT_SIGNATURE)

    @property
    def host_functions(self) -> tuple[str, ...]:
        return tuple(sorted(name for module, name in self.imports if module == HOST_MODULE))


def interface_of(module: wasmtime.Module) -> Interface:
    functions: dict[str, Signature | None] = {}
    memory_bytes: int | None = None
    for export in module.exports:
        if isinstance(export.type, wasmtime.FuncType):
            functions[export.name] = _signature(export.type)
        elif isinstance(export.type, wasmtime.MemoryType) and export.name == MEMORY_EXPORT:
            memory_bytes = export.type.limits.min * PAGE_BYTES
    imports = {
        (item.module, item.name or ""): _signature(item.type) if isinstance(item.type, wasmtime.FuncType) else None
        for item in module.imports
    }
    return Interface(imports, functions, memory_bytes)


def problems_of(interface: Interface, known: Iterable[HostImport], exports: Iterable[str]) -> list[Problem]:
    """Everything about the interface that the ABI does not allow; `exports` are the functions that must be there."""
    allowed = {(item.module, item.name): item.signature for item in known}
    modules = {module for module, _ in allowed}
    problems: list[Problem] = []
    for (module, name), signature in interface.imports.items():
        wanted = allowed.get((module, name))
        label = f"{module}.{name}"[:_MAX_SHOWN]
        if wanted is None:
            reason = "no such function is offered" if module in modules else "nothing is offered under that module name"
            problems.append(Problem(f"import {label}", "import_not_allowed", reason))
        elif signature != wanted:
            problems.append(Problem(f"import {label}", "import_signature", f"it is {wanted}, not {_shown(signature)}"))
    if interface.memory_bytes is None:
        problems.append(Problem(f"export {MEMORY_EXPORT}", "export_missing", "the module must export its memory"))
    for name, wanted in ((ALLOC_EXPORT, ALLOC_SIGNATURE), *((name, EXPORT_SIGNATURE) for name in exports)):
        label = f"export {name[:_MAX_SHOWN]}"
        if name not in interface.functions:
            problems.append(Problem(label, "export_missing", f"the module must export a function {wanted}"))
        elif interface.functions[name] != wanted:
            found = _shown(interface.functions[name])
            problems.append(Problem(label, "export_signature", f"it must be {wanted}, not {found}"))
    return problems


def is_core_module(wasm: bytes) -> bool:
    """Whether this begins like a binary core module; the text format and components do not."""
    return wasm.startswith(_WASM_HEADER)


def has_start_function(wasm: bytes) -> bool:
    """Whether guest code runs while an instance is made. `wasm` is a core module that the engine found valid."""
    at = len(_WASM_HEADER)
    while at < len(wasm):
        section = wasm[at]
        size, at = _unsigned(wasm, at + 1)
        if section == _START_SECTION:
            return True
        at += size
    return False


def _unsigned(wasm: bytes, at: int) -> tuple[int, int]:
    """An LEB128 number and where it ends."""
    value = shift = 0
    while True:
        byte = wasm[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _signature(function: wasmtime.FuncType) -> Signature | None:
    try:
        parameters = tuple(Wasm(str(parameter)) for parameter in function.params)
        results = tuple(Wasm(str(result)) for result in function.results)
    except ValueError:
        return None
    return Signature(parameters, results[0] if results else None) if len(results) < 2 else None


def _shown(signature: Signature | None) -> str:
    return str(signature) if signature is not None else "something else"
