"""Handlers that are signed HTTP calls to the addon's backend."""

from __future__ import annotations

from typing import Final

from metacore.addons.backend_call import BackendCall, BackendCaller
from metacore.addons.handlers.payload import encoded
from metacore.addons.handlers.run import Run, result_of
from metacore.addons.invocation import Result
from metacore.addons.sandbox import Sandbox
from metacore.manifest.model import Manifest

MAX_SECONDS: Final = 60.0
SERVER_ERROR: Final = 500


class WebhookRuns:
    def __init__(self, caller: BackendCaller, bundles: Sandbox) -> None:
        self._caller = caller
        self._bundles = bundles

    async def run(self, run: Run) -> Result:
        """See `HandlerRuns`; an answer that is no success declines, with the backend's own words where it has some.

        Raises:
            Unavailable: the backend cannot be reached, or does not answer in time.
            PermissionDenied: the addon was not granted that host, or nobody may reach it.
        """
        invocation = run.invocation
        manifest = await self._manifest(run)
        backend = manifest.backend
        handler = invocation.handler
        timeout = handler.timeout or (backend.timeout_ms if backend is not None else 10_000) / 1000
        reply = await self._caller.call(
            run.context,
            BackendCall(
                manifest=manifest,
                url=handler.url,
                method=handler.method,
                # What a GET has to say stands in its URL.
                body=b"" if handler.method == "GET" else encoded(invocation.payload),
                event=invocation.name,
                timeout=min(timeout, MAX_SECONDS),
                id=invocation.id,
            ),
        )
        if reply.succeeded:
            return result_of(reply.value)
        told = result_of(reply.value) if isinstance(reply.value, dict) else Result(success=True)
        code = "backend_error" if reply.status >= SERVER_ERROR else f"http_{reply.status}"
        if not told.success:
            return Result(
                success=False,
                data=told.data,
                code=told.code if told.code != "declined" else code,
                message=told.message,
                meta=told.meta,
            )
        return Result(success=False, code=code, message=f"the addon's backend answered {reply.status}")

    async def _manifest(self, run: Run) -> Manifest:
        if run.addon is not None and run.addon.digest == run.digest:
            return run.addon.manifest
        return await self._bundles.manifest_of(run.digest)
