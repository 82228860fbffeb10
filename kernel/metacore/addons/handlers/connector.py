"""Handlers that go through a connector: a request with its credentials, or a function of the addon that uses it.

`function` names the connector, or `<connector>.<function>`; `url` is where the request goes, below the connector's
`base_url` when it is a path. An addon with one connector need not name it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from metacore.addons.backend_call import MAX_REPLY_BYTES
from metacore.addons.egress import AddonEgress
from metacore.addons.handlers.payload import encoded
from metacore.addons.handlers.run import HandlerRuns, Run, result_of
from metacore.addons.invocation import Handler, HandlerKind, Result
from metacore.capabilities.access import Access, CapabilityKind, Gate
from metacore.connectors.credentials import Credentials
from metacore.egress.outbound import OutboundRequest
from metacore.errors import NotFound, NotWired, Refused
from metacore.manifest.model import Connector

SECONDS: Final = 10.0
BEARER, KEYS = ("token", "access_token", "api_key", "key"), ("api_key", "key", "token")
USERS, PASSWORDS = ("username", "user", "login"), ("password", "secret")


class ConnectorRuns:
    def __init__(
        self, egress: AddonEgress, credentials: Credentials, gate: Gate, kinds: Mapping[HandlerKind, HandlerRuns]
    ) -> None:
        self._egress = egress
        self._credentials = credentials
        self._gate = gate
        self._kinds = kinds

    async def run(self, run: Run) -> Result:
        handler = run.invocation.handler
        connector, function = self._meant(run)
        if function:
            backend = run.addon.manifest.backend if run.addon is not None else None
            kind: HandlerKind = "wasm" if backend is not None and backend.runtime == "wasm" else "compiled"
            payload = {**run.invocation.payload, "connector": connector.key}
            inner = replace(run.invocation, handler=Handler(kind, function), payload=payload)
            return await self._kinds[kind].run(replace(run, invocation=inner))
        return await self._request(run, connector, handler.url)

    async def _request(self, run: Run, connector: Connector, url: str) -> Result:
        who = run.context
        self._gate.require(
            Access(who.addon_key, CapabilityKind.CONNECTOR_READ, connector.key, who.organization_id, who.caller)
        )
        credentials = await self._credentials.opened(who.organization_id, who.addon_key, connector.key)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = OutboundRequest(
            "POST",
            _place(connector, url),
            headers | authorization(connector, credentials),
            encoded(run.invocation.payload),
            timeout=SECONDS,
            max_response_bytes=MAX_REPLY_BYTES,
        )
        response = await self._egress.send(who, request)
        try:
            value = orjson.loads(response.body) if response.body.strip() else None
        except orjson.JSONDecodeError:
            value = response.body.decode("utf-8", "replace")
        if 200 <= response.status < 300:
            return result_of(value)
        message = f"{connector.key} answered {response.status}"
        return Result(success=False, data=value, code="connector_failed", message=message)

    def _meant(self, run: Run) -> tuple[Connector, str]:
        """The connector of the handler, and the function of the addon to run, '' for a request."""
        declared = run.addon.manifest.connectors if run.addon is not None else ()
        named = run.invocation.handler.function
        if not named and len(declared) == 1:
            return declared[0], ""
        # Keys may hold dots, so the longest one that fits is meant.
        for connector in sorted(declared, key=lambda item: -len(item.key)):
            if named == connector.key:
                return connector, ""
            if named.startswith(f"{connector.key}."):
                return connector, named.removeprefix(f"{connector.key}.")
        raise NotFound(f"addon {run.invocation.addon_key!r} has no connector {named[:64]!r}", code="unknown_connector")


def authorization(connector: Connector, credentials: Mapping[str, Any]) -> dict[str, str]:
    """The header that carries the credentials, as the connector's `auth` says.

    Raises:
        Refused: a credential that is needed is not there. NotWired: a way that is not known.
    """
    way = connector.auth.lower()
    if way in ("", "none"):
        return {}
    if way in ("bearer", "token", "oauth2"):
        return {"Authorization": f"Bearer {_first(connector, credentials, BEARER)}"}
    if way == "basic":
        login = f"{_first(connector, credentials, USERS)}:{_first(connector, credentials, PASSWORDS)}"
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    if way in ("api_key", "apikey", "header"):
        return {connector.header or "X-Api-Key": _first(connector, credentials, KEYS)}
    raise NotWired(f"connector {connector.key!r}: auth {connector.auth[:32]!r} is not known", code="unknown_auth")


def _first(connector: Connector, credentials: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = credentials.get(name)
        if isinstance(value, str) and value:
            return value
    raise Refused(f"connector {connector.key!r} has none of the credentials {', '.join(names)}", code="credentials")


def _place(connector: Connector, url: str) -> str:
    if "://" in url:
        return url
    if "://" not in connector.base_url:
        raise Refused(f"connector {connector.key!r} declares no base_url", code="no_base_url")
    return connector.base_url.rstrip("/") + url if url else connector.base_url
