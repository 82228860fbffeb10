"""The code of an addon, before anything of it is installed: it must fit the ABI and start within its limits."""

from __future__ import annotations

from metacore.bundle.read import Bundle
from metacore.errors import Refused


def check_wasm(bundle: Bundle) -> None:
    """Scan the module that `backend.entry` names. Compiles it, so it belongs into a thread.

    Raises:
        Refused: the bundle lacks the module (`wasm_missing`), or the module is not one that may run; every problem is
            named.
    """
    backend = bundle.manifest.backend
    if backend is None or backend.runtime != "wasm":
        return
    wasm = bundle.wasm
    if wasm is None:
        raise Refused(f"backend.entry names {backend.entry!r}, which the bundle does not hold", code="wasm_missing")
    # Loading the engine takes memory and a tenth of a second, and few addons bring code.
    from metacore.wasm.engine import Engine
    from metacore.wasm.limits import limits_of
    from metacore.wasm.modules import Modules
    from metacore.wasm.scan import scan

    engine = Engine()
    try:
        modules = Modules(engine)
        try:
            scan(modules, wasm, backend.exports, limits_of(backend))
        finally:
            modules.close()
    finally:
        engine.close()
