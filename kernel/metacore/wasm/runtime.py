"""The sandbox of one process: loading modules, scanning them, calling their exports from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from metacore.errors import NotFound
from metacore.logs import get_logger
from metacore.wasm.abi import FailureCode, Reply
from metacore.wasm.bridge import LoopBridge
from metacore.wasm.engine import Engine
from metacore.wasm.guest import Guest
from metacore.wasm.instance import call_export
from metacore.wasm.limits import Limits
from metacore.wasm.modules import LoadedModule, Modules
from metacore.wasm.pool import Pool
from metacore.wasm.ports import HostCall, HostServices, deadline_in
from metacore.wasm.scan import Scanned, scan

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """Where a module comes from when it is neither in memory nor on disk: `read` gives the binary whose SHA-256 (hex)
    is `digest`; it is called in a thread."""

    digest: str
    read: Callable[[], bytes]


@dataclass(slots=True, eq=False)
class _Invocation:
    """What a call needs in its worker thread; `cancel` comes from the loop."""

    modules: Modules
    module: LoadedModule
    addon_key: str
    export: str
    request: bytes
    limits: Limits
    services: HostServices | None
    bridge: LoopBridge | None
    guest: Guest | None = None
    cancelled: bool = False

    def run(self) -> Reply:
        # Time counts from here: waiting for a thread is not the guest's fault.
        call = HostCall(self.addon_key, self.export, deadline_in(self.limits.timeout))
        self.guest = guest = Guest(call, self.limits, self.services, self.bridge)
        if self.cancelled:
            guest.cancel()
        return call_export(self.modules, self.module, self.export, self.request, guest)

    def cancel(self) -> None:
        self.cancelled = True
        if self.guest is not None:
            self.guest.cancel()
        if self.bridge is not None:
            self.bridge.cancel()


class Runtime:
    """`async with Runtime.open(directory) as runtime:`. One per process is enough, and one engine is all it needs."""

    def __init__(self, engine: Engine, modules: Modules, pool: Pool) -> None:
        self.engine = engine
        self.modules = modules
        self.pool = pool
        self._loading: dict[str, asyncio.Task[LoadedModule]] = {}
        self._invocations: set[_Invocation] = set()

    @classmethod
    async def open(cls, directory: Path | None = None, *, threads: int | None = None) -> Self:
        """Start the engine and the threads. `directory` keeps compiled modules; None keeps them in memory only.

        Raises:
            Misconfigured: others may write the directory.
        """

        def build() -> tuple[Engine, Modules]:
            engine = Engine()
            return engine, Modules(engine, directory)

        engine, modules = await asyncio.to_thread(build)
        pool = Pool(threads)
        pool.start()
        return cls(engine, modules, pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the calls that run, and everything else."""
        for invocation in list(self._invocations):
            invocation.cancel()
        await self.pool.close()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.to_thread(self.engine.close)
        self.modules.close()

    async def prepare(self, source: ModuleSource) -> LoadedModule:
        """Have the module in memory; calls do it themselves, but then the first one waits.

        Raises:
            Refused: it is not the module of that digest, not valid, or does not fit the ABI.
        """
        module = self.modules.loaded(source.digest)
        if module is not None:
            return module
        task = self._loading.get(source.digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self.modules.load, source.digest, source.read))
            self._loading[source.digest] = task
            task.add_done_callback(partial(self._loaded, source.digest))
        return await asyncio.shield(task)

    def _loaded(self, digest: str, task: asyncio.Task[LoadedModule]) -> None:
        self._loading.pop(digest, None)
        if not task.cancelled():
            task.exception()  # Seen, even when everybody who waited for it went away.

    async def scan(self, wasm: bytes, exports: Iterable[str], limits: Limits) -> Scanned:
        """See `scan.scan`."""
        return await asyncio.to_thread(scan, self.modules, wasm, tuple(exports), limits)

    async def invoke(
        self,
        addon_key: str,
        source: ModuleSource,
        export: str,
        request: bytes,
        limits: Limits,
        services: HostServices | None = None,
    ) -> Reply:
        """Call `export` with `request` (JSON) in a fresh instance. What the guest does wrong is in the reply.

        When this returns, or raises, no host service of the call runs any more.

        Raises:
            NotFound: the module exports no such function of the ABI.
            Refused: the module cannot be loaded.
            TooManyRequests: the addon, or the pool, has too many calls waiting.
        """
        module = await self.prepare(source)
        if export not in module.functions:
            raise NotFound(f"addon {addon_key!r} exports no function {export[:64]!r}", code="unknown_export")
        bridge = LoopBridge() if services is not None else None
        invocation = _Invocation(self.modules, module, addon_key, export, request, limits, services, bridge)
        self._invocations.add(invocation)
        try:
            reply = await self.pool.run(addon_key, invocation.run, invocation.cancel)
        finally:
            self._invocations.discard(invocation)
            if bridge is not None:
                await bridge.settled()
        if reply.failure is not None and reply.failure.code is not FailureCode.CANCELLED:
            failure = reply.failure
            log.warning(
                "wasm.call_failed",
                addon=addon_key,
                export=export,
                code=failure.code.value,
                reason=failure.message,
                detail=failure.detail,
                seconds=round(reply.seconds, 4),
            )
        return reply
