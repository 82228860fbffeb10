"""The addon plane for a host that embeds the kernel: compiled addons, services, interceptors, merged navigation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select

from metacore.addons.compiled import BootContext, CompiledAddon
from metacore.addons.handlers.compiled import CompiledFunctions
from metacore.addons.interceptors import Interceptors
from metacore.addons.lifecycle import Lifecycles
from metacore.app import App
from metacore.db.database import Database
from metacore.dynamic.hook_points import HookRegistry
from metacore.events.bus import Bus
from metacore.installer.execute import Installer
from metacore.navigation import AddonNavigation, Group, contributed, merge
from metacore.orm.addons import Addon, Installation
from metacore.registry import Registry
from metacore.secrets import Sealer

ENABLED = "enabled"


@dataclass(frozen=True)
class HostConfig:
    """`db` may do DDL: it is where addons are installed. `services` reach the addons by name. With an `app` the host
    shares its registry, hooks and bus, so that what addons register takes effect on the API that the app serves;
    without one it installs and boots addons, and merges menus."""

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
        self.interceptors = Interceptors(self.hooks, self._acts)
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

    async def navigation(self, organization_id: UUID, core_groups: Sequence[Group | Mapping[str, Any]]) -> list[Group]:
        """`core_groups` with what the organization's enabled addons add, in key order (contract 17).

        Raises:
            InvalidInput: a core group that is not of contract 17's shape.
        """
        if self.config.app is not None:
            return merge(core_groups, contributed(self.registry.snapshot, organization_id))
        return merge(core_groups, await self._linked_in(organization_id))

    async def _linked_in(self, organization_id: UUID) -> list[AddonNavigation]:
        """What the addons of this program contribute that the organization has: nobody loads a registry here."""
        serving = (
            select(Installation.addon_key)
            .join(Addon, Addon.key == Installation.addon_key)
            .where(
                Installation.organization_id == organization_id,
                Installation.status == ENABLED,
                Addon.enabled.is_(True),
                Addon.fenced_reason == "",
                Installation.addon_key.in_(self.lifecycles.keys),
            )
        )
        async with self.config.db.transaction(organization_id) as connection:
            keys = (await connection.execute(serving)).scalars().all()
        return [AddonNavigation(key, self.lifecycles.manifest(key).navigation) for key in keys]

    def _acts(self, key: str, organization_id: UUID) -> bool:
        """Whether interceptors of `key` act there: those of an addon do where it serves, the host's own everywhere."""
        if key not in self.lifecycles.keys:
            return True
        snapshot = self.registry.snapshot
        installed, addon = snapshot.installed.get(organization_id, {}).get(key), snapshot.addons.get(key)
        return installed is not None and installed.enabled and addon is not None and not addon.fenced_reason

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
