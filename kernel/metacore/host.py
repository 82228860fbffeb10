"""The addon plane for a host that embeds the kernel: compiled addons, services, interceptors, merged navigation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from metacore.addons.compiled import BootContext, CompiledAddon
from metacore.addons.handlers.compiled import CompiledFunctions
from metacore.addons.interceptors import Interceptors
from metacore.addons.lifecycle import Lifecycles
from metacore.app import App
from metacore.db.database import Database
from metacore.dynamic.hook_points import HookRegistry
from metacore.events.bus import Bus
from metacore.installer.execute import Installer
from metacore.navigation import AddonNavigation, Group, merge
from metacore.registry import Registry
from metacore.secrets import Sealer


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """`db` may do DDL: it is where addons are installed. `services` reach the addons by name. With an `app` the host
    shares its registry, hooks and bus, so that what addons register takes effect on the API that the app serves."""

    db: Database
    kernel_version: str
    services: Mapping[str, Any] = field(default_factory=dict)
    app: App | None = None
    master_key: bytes | None = None


class Host:
    """Attributes: `installer`, `lifecycles`, `interceptors`, `bus`, `hooks`, `functions`, `registry`."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        app = config.app
        self.registry = app.registry if app is not None else Registry()
        self.hooks = app.hooks if app is not None else HookRegistry()
        self.bus = app.bus if app is not None else Bus()
        self.functions = app.functions if app is not None else CompiledFunctions()
        self.interceptors = Interceptors(self.hooks)
        self.installer = Installer(
            config.db,
            sealer=Sealer(config.master_key) if config.master_key else None,
            host_models=lambda: {key: model.table_name for key, model in self.registry.host_models.items()},
        )
        self.lifecycles = Lifecycles(self.installer, config.services)

    def register_compiled(self, key: str, addon: CompiledAddon) -> Host:
        """Know an addon that is linked into this program. It serves an organization once `lifecycles.install` ran."""
        self.lifecycles.register(key, addon)
        return self

    async def boot(self) -> None:
        """Call every compiled addon's `boot` with the shared services."""
        await self.lifecycles.boot(self._context)

    async def navigation(self, organization_id: UUID, core_groups: Sequence[Group]) -> list[Group]:
        """`core_groups` with what the organization's enabled addons add, in key order (contract 17)."""
        installed = self.registry.snapshot.installed.get(organization_id, {})
        addons = [
            AddonNavigation(key, self.registry.snapshot.addons[key].manifest.navigation)
            for key in sorted(installed)
            if installed[key].enabled and key in self.registry.snapshot.addons
        ]
        return merge(core_groups, addons)

    def _context(self, key: str) -> BootContext:
        return BootContext(
            addon_key=key,
            kernel_version=self.config.kernel_version,
            services=self.config.services,
            bus=self.bus,
            hooks=self.hooks,
            interceptors=self.interceptors,
            registry=self.registry,
            functions=self.functions,
        )
