"""Code of addons in this process: the engine, opened when the first addon brings code, and modules by bundle digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metacore.addons.stored import read_bundle_row
from metacore.bundle.read import Bundle, digest_of, read_bundle
from metacore.db.database import Database
from metacore.errors import MetacoreError, NotFound, Refused, Unavailable
from metacore.manifest.model import Manifest
from metacore.wasm.abi import Reply
from metacore.wasm.limits import Ceiling, Limits, limits_of
from metacore.wasm.ports import HostServices
from metacore.wasm.runtime import ModuleSource, Runtime

READ_SECONDS: Final = 30.0
"""How long reading a bundle for a module that memory and disk have lost may take."""

MAX_CODES: Final = 1024


@dataclass(frozen=True, slots=True)
class Code:
    """What is known of one bundle's module: the SHA-256 of its binary, what may be called, and within which limits."""

    addon_key: str
    module_digest: str
    exports: frozenset[str]
    limits: Limits


class Sandbox:
    """Costs nothing until `prepare` or `invoke` meets a module. Belongs to one event loop; end it with `close`.

    `cache_dir` keeps compiled modules over restarts in its folder `modules`; '' keeps them in memory only. `threads`
    None means a few more than cores. `ceiling` bounds what manifests may ask for.
    """

    def __init__(
        self,
        database: Database,
        *,
        cache_dir: str = "",
        threads: int | None = None,
        ceiling: Ceiling | None = None,
    ) -> None:
        self._database = database
        self._directory = Path(cache_dir) / "modules" if cache_dir else None
        self._threads = threads
        self._ceiling = ceiling or Ceiling()
        self._codes: dict[str, Code] = {}
        self._opening = asyncio.Lock()
        self._runtime: Runtime | None = None
        self._closed = False

    @property
    def opened(self) -> bool:
        return self._runtime is not None

    def prepared(self, digest: str) -> bool:
        """Whether the module of the bundle with this digest is known to be fit to run here."""
        return digest in self._codes

    async def prepare(self, bundle: Bundle) -> None:
        """Have the bundle's module compiled and linked; nothing for a bundle without one.

        Raises:
            Refused: it is missing or does not fit the ABI.
            Misconfigured: others may write the cache of compiled modules.
        """
        backend = bundle.manifest.backend
        if backend is None or backend.runtime != "wasm":
            return
        wasm = bundle.wasm
        if wasm is None:
            raise Refused(f"backend.entry names {backend.entry!r}, which the bundle does not hold", code="wasm_missing")
        digest = await asyncio.to_thread(lambda: hashlib.sha256(wasm).hexdigest())
        runtime = await self._open()
        module = await runtime.prepare(ModuleSource(digest, lambda: wasm))
        missing = sorted(set(backend.exports) - module.functions)
        if missing:
            raise Refused(f"the WASM module exports no function {', '.join(missing[:5])}", code="wasm_refused")
        while len(self._codes) >= MAX_CODES:
            self._codes.pop(next(iter(self._codes)))
        self._codes[bundle.digest] = Code(
            bundle.manifest.key, digest, frozenset(backend.exports), limits_of(backend, self._ceiling)
        )

    async def invoke(
        self, addon_key: str, digest: str, export: str, request: bytes, services: HostServices | None
    ) -> Reply:
        """Call `export` of the bundle with this digest; see `Runtime.invoke`.

        Raises:
            NotFound: the bundle declares no such export, or is not stored.
            Refused, TooManyRequests: as `Runtime.invoke`.
        """
        code = self._codes.get(digest)
        if code is None:
            await self.prepare(await self._bundle(digest))
            code = self._codes.get(digest)
        if code is None or code.addon_key != addon_key or export not in code.exports:
            raise NotFound(f"addon {addon_key!r} exports no function {export[:64]!r}", code="unknown_export")
        runtime = await self._open()
        source = ModuleSource(code.module_digest, self._reader(digest))
        return await runtime.invoke(addon_key, source, export, request, code.limits, services)

    async def manifest_of(self, digest: str) -> Manifest:
        """What the bundle with this digest declares. Raises NotFound when it is not stored."""
        return (await self._bundle(digest)).manifest

    async def close(self) -> None:
        """End the calls that run, and the engine."""
        self._closed = True
        async with self._opening:
            runtime, self._runtime = self._runtime, None
            if runtime is not None:
                await runtime.close()

    def reopen(self) -> None:
        """Allow calls again after `close`; the engine opens with the next one."""
        self._closed = False

    async def _open(self) -> Runtime:
        if self._runtime is None:
            async with self._opening:
                if self._closed:
                    raise Unavailable("the sandbox is shutting down")
                if self._runtime is None:
                    self._runtime = await Runtime.open(self._directory, threads=self._threads)
        return self._runtime

    async def _bundle(self, digest: str) -> Bundle:
        """The stored bundle, which an installer verified; it must still be the one of its digest."""
        try:
            stored = await read_bundle_row(self._database, digest)
        except MetacoreError as error:
            raise NotFound(error.message, code="unknown_bundle") from error

        def read() -> Bundle:
            if digest_of(stored.content) != digest:
                raise Refused("the stored bundle is not the one of its digest", code="digest_mismatch")
            return read_bundle(stored.content)

        return await asyncio.to_thread(read)

    def _reader(self, digest: str) -> Callable[[], bytes]:
        """Reads the module again out of its bundle; the engine calls it in a thread, when it has lost the module."""
        loop = asyncio.get_running_loop()

        def read() -> bytes:
            bundle = asyncio.run_coroutine_threadsafe(self._bundle(digest), loop).result(READ_SECONDS)
            if bundle.wasm is None:
                raise Refused("the stored bundle holds no WASM module", code="wasm_missing")
            return bundle.wasm

        return read
