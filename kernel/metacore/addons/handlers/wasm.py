"""Handlers that are exports of an addon's WASM module."""

from __future__ import annotations

from metacore.addons.handlers.payload import encoded
from metacore.addons.handlers.run import Run, result_of
from metacore.addons.host_calls.services import GuestHost
from metacore.addons.invocation import Result
from metacore.addons.sandbox import Sandbox
from metacore.errors import NotFound


class WasmRuns:
    def __init__(self, sandbox: Sandbox, host: GuestHost) -> None:
        self._sandbox = sandbox
        self._host = host

    async def run(self, run: Run) -> Result:
        invocation = run.invocation
        export = invocation.handler.function.removeprefix("wasm:")
        if not export:
            raise NotFound(f"{invocation.trigger} {invocation.name!r} names no export", code="unknown_export")
        services = await self._host.services_for(run.context, run.addon, invocation.name)
        reply = await self._sandbox.invoke(
            invocation.addon_key, run.digest, export, encoded(invocation.payload), services
        )
        refusal = services.refusal
        if reply.failure is None:
            return result_of(reply.value)
        if refusal is not None:
            # A guest that gives up because the host refused it something failed for that reason.
            return Result(success=False, code=refusal.code, message=refusal.message)
        return Result(success=False, code=reply.failure.code.value, message=reply.failure.message)
