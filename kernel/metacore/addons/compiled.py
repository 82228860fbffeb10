"""Addons that are Python code linked into the host: what they look like, and what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from metacore.addons.handlers.compiled import CompiledFunctions
from metacore.addons.interceptors import Interceptors
from metacore.dynamic.hook_points import HookRegistry
from metacore.events.bus import Bus
from metacore.registry import Registry


@dataclass(frozen=True, slots=True)
class BootContext:
    """What `boot` gets: the host's services by name, and the places where an addon hooks itself in."""

    addon_key: str
    kernel_version: str
    services: Mapping[str, Any]
    bus: Bus
    hooks: HookRegistry
    interceptors: Interceptors
    registry: Registry
    functions: CompiledFunctions
    """Where functions are registered that the manifest's `compiled` handlers name."""


@dataclass(frozen=True, slots=True)
class LifecycleContext:
    """What a lifecycle call gets. `invocation_id` stays the same when the call is made again after a crash."""

    addon_key: str
    organization_id: UUID
    version: str
    invocation_id: str
    services: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class CompiledAddon(Protocol):
    """The object that `Host.register_compiled` takes. A `boot(context)` coroutine method is optional."""

    def manifest(self) -> Mapping[str, Any]: ...

    async def on_install(self, context: LifecycleContext) -> None: ...

    async def on_uninstall(self, context: LifecycleContext) -> None: ...

    async def on_enable(self, context: LifecycleContext) -> None: ...

    async def on_disable(self, context: LifecycleContext) -> None: ...


class Declarative:
    """Base of addons that need no code: a manifest, and lifecycle calls that do nothing."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._manifest = dict(manifest)

    def manifest(self) -> Mapping[str, Any]:
        return self._manifest

    async def on_install(self, context: LifecycleContext) -> None:
        return None

    async def on_uninstall(self, context: LifecycleContext) -> None:
        return None

    async def on_enable(self, context: LifecycleContext) -> None:
        return None

    async def on_disable(self, context: LifecycleContext) -> None:
        return None
