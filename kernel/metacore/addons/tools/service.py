"""The tools that an organization has, and running one for a user."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast
from urllib.parse import urlencode

from metacore.addons.actions import UserGate
from metacore.addons.invocation import Handler, Invocation, Result, Runner
from metacore.addons.tools.parameters import checked, json_schema
from metacore.errors import Fenced, NotFound, Refused
from metacore.identity import Principal
from metacore.installer.job_rows import handler_of
from metacore.manifest.model import Manifest
from metacore.registry import Registry

DEFAULT_SECONDS: Final = 30.0
MOST_SECONDS: Final = 60.0
"""As long as code of an addon gets at most."""

HIDDEN: Final = frozenset({"endpoint", "method", "handler", "timeout"})
"""How a tool is run is between the addon and the kernel."""


class ToolGate(UserGate, Protocol):
    async def check(self, principal: Principal, capability: str) -> bool: ...


class ToolService:
    def __init__(self, registry: Registry, runner: Runner, permissions: ToolGate | None) -> None:
        self._registry = registry
        self._runner = runner
        self._permissions = permissions

    async def listed(self, principal: Principal) -> list[dict[str, Any]]:
        """The tools of every addon that is installed, enabled and trusted here, as declared, with `addon_key` and the
        `input_schema` as JSON Schema; those that the caller may not run are left out."""
        snapshot = self._registry.snapshot
        found: list[dict[str, Any]] = []
        for key, installed in sorted(snapshot.installed.get(principal.organization_id, {}).items()):
            addon = snapshot.addons.get(key)
            if not installed.enabled or addon is None or addon.fenced_reason or addon.error:
                continue
            for tool in addon.manifest.tools:
                if self._permissions is None or await self._permissions.check(principal, capability_of(key, tool)):
                    shown = {name: value for name, value in tool.items() if name not in HIDDEN}
                    schema = json_schema(tool.get("input_schema"))
                    found.append(
                        {**shown, "addon_key": key, "name": tool.get("name") or tool["id"], "input_schema": schema}
                    )
        return found

    async def execute(
        self, principal: Principal, addon_key: str, tool_id: str, params: Mapping[str, Any]
    ) -> tuple[Result, dict[str, Any]]:
        """Run a tool once. The second is the meta of the answer: addon, tool, and kind of the handler.

        Raises:
            NotFound: no such addon here, or no such tool of it. Fenced: the addon is no longer trusted.
            PermissionDenied: the caller lacks `<addon>.<tool>`, or what the tool declares as `permission`.
            Refused: parameters that do not fit, every problem named; or a tool without any handler.
            And what `Runner.run` raises.
        """
        manifest = self._manifest(principal, addon_key)
        tool = next((tool for tool in manifest.tools if tool["id"] == tool_id), None)
        if tool is None:
            raise NotFound(f"addon {addon_key!r} has no tool {tool_id[:64]!r}", code="unknown_tool")
        if self._permissions is not None:
            await self._permissions.require(principal, capability_of(addon_key, tool))
        filled, problems = checked(json_schema(tool.get("input_schema")), params)
        if problems:
            raise Refused(f"parameters refused: {problems[0].message}", code="validation", problems=problems)
        handler = handler_for(manifest, tool, filled)
        result = await self._run(principal, addon_key, tool, handler, filled)
        return result, {**result.meta, "addon": addon_key, "tool": tool_id, "trigger": handler.kind}

    async def _run(
        self,
        principal: Principal,
        addon_key: str,
        tool: Mapping[str, Any],
        handler: Handler,
        params: Mapping[str, Any],
    ) -> Result:
        identity = uuid.uuid4()
        payload = {
            "tool": tool["id"],
            "params": dict(params),
            "organization_id": str(principal.organization_id),
            "user": {"id": str(principal.user_id), "email": principal.email, "role": principal.role},
            "locale": principal.locale,
            "invocation_id": str(identity),
        }
        invocation = Invocation(
            addon_key,
            principal.organization_id,
            "tool",
            str(tool["id"]),
            handler,
            payload,
            principal,
            str(principal.user_id),
            identity,
        )
        try:
            # A call to a backend ends by itself, and says more about its end.
            async with asyncio.timeout(handler.timeout if handler.kind != "webhook" else None):
                return await self._runner.run(invocation)
        except TimeoutError:
            message = f"the tool gave no answer within {handler.timeout:g} s"
            return Result(success=False, code="timeout", message=message)

    def _manifest(self, principal: Principal, addon_key: str) -> Manifest:
        snapshot = self._registry.snapshot
        addon = snapshot.addons.get(addon_key)
        installed = snapshot.installed.get(principal.organization_id, {}).get(addon_key)
        if addon is None or installed is None or not installed.enabled:
            raise NotFound(f"addon {addon_key[:64]!r} is not installed and enabled here", code="unknown_addon")
        if addon.fenced_reason:
            raise Fenced(f"addon {addon_key!r} is fenced: its signature is no longer trusted")
        return addon.manifest


def capability_of(addon_key: str, tool: Mapping[str, Any]) -> str:
    """What a user must hold to run the tool."""
    declared = tool.get("permission")
    return declared if isinstance(declared, str) and declared else f"{addon_key}.{tool['id']}"


def handler_for(manifest: Manifest, tool: Mapping[str, Any], params: Mapping[str, Any]) -> Handler:
    """Its `handler`, else a call of its `endpoint`, else the export or the function of the host that is called like it.

    Raises:
        Refused: there is none of these.
    """
    seconds = min(float(tool.get("timeout") or DEFAULT_SECONDS), MOST_SECONDS)
    method, endpoint = str(tool.get("method") or "POST"), str(tool.get("endpoint") or "")
    given = handler_of(tool["handler"]) if tool.get("handler") else None
    backend = manifest.backend
    if given is not None:
        kind, function, url = given["kind"], given["function"], given["url"] or endpoint
    elif endpoint:
        kind, function, url = "webhook", "", endpoint
    elif backend is not None and backend.runtime == "wasm" and tool["id"] in backend.exports:
        kind, function, url = "wasm", tool["id"], ""
    elif backend is not None and backend.runtime == "webhook":
        kind, function, url = "webhook", "", ""
    elif backend is None:
        kind, function, url = "compiled", tool["id"], ""
    else:
        raise Refused(f"tool {tool['id']!r} declares neither a handler nor an endpoint", code="no_handler")
    if kind == "webhook" and method == "GET" and params:
        url += ("&" if "?" in url else "?") + urlencode({key: _text(value) for key, value in params.items()})
    return Handler(cast(Any, kind), function, url, method, seconds)


def _text(value: Any) -> str:
    return "true" if value is True else "false" if value is False else "" if value is None else str(value)
