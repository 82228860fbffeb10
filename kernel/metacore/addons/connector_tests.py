"""Trying credentials: the addon's own function says whether they work."""

from __future__ import annotations

from typing import Any, Final

from metacore.addons.invocation import Handler, HandlerKind, Invocation, Runner
from metacore.connectors.credentials import Credentials
from metacore.errors import NotFound
from metacore.identity import Principal
from metacore.registry import Registry

FAILED: Final = "the credentials do not work"


class ConnectorTests:
    def __init__(self, credentials: Credentials, registry: Registry, runner: Runner) -> None:
        self._credentials = credentials
        self._registry = registry
        self._runner = runner

    async def run(self, principal: Principal, addon_key: str, connector_key: str) -> dict[str, Any]:
        """Run `test_export` with `{"connector": <key>}`; it asks for the credentials itself. `{passed, code, message}`.

        Raises:
            NotFound: no such connector, no credentials yet, or nothing to test them with; and what `Runner.run` raises.
        """
        organization_id = principal.organization_id
        connector = self._credentials.declared(organization_id, addon_key, connector_key)
        if not connector.test_export:
            raise NotFound(f"connector {connector_key!r} declares no test_export", code="not_testable")
        await self._credentials.opened(organization_id, addon_key, connector_key)
        backend = self._registry.snapshot.addons[addon_key].manifest.backend
        kind: HandlerKind = "wasm" if backend is not None and backend.runtime == "wasm" else "compiled"
        result = await self._runner.run(
            Invocation(
                addon_key,
                organization_id,
                "connector",
                connector_key,
                Handler(kind, connector.test_export),
                {"connector": connector_key},
                principal,
            )
        )
        message = "" if result.success else result.message or FAILED
        await self._credentials.tested(organization_id, addon_key, connector_key, message)
        return {"passed": result.success, "code": result.code, "message": message}
