"""The life of addons that the host links in: booting, installing and calling their handlers.

The installer changes the database; this room calls the addon's own code after that change is committed. A handler that
fails leaves the installation in place and is named in the error: calling the operation again calls it again, with the
same invocation id.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import orjson

from metacore.addons.compiled import BootContext, CompiledAddon, LifecycleContext
from metacore.bundle.signature import TrustedKeys
from metacore.bundle.write import write_bundle
from metacore.errors import Conflict, InstallFailed, Misconfigured, NotFound
from metacore.installer.execute import Installer
from metacore.installer.standing import Asker
from metacore.logs import get_logger
from metacore.manifest.model import Manifest
from metacore.manifest.read import parse_manifest

log = get_logger(__name__)

LINKED_IN = TrustedKeys((), allow_unsigned=True)
"""Code linked into the host is as trusted as the host: its manifest needs no signature."""


class Lifecycles:
    """Compiled addons of one host, by key."""

    def __init__(self, installer: Installer, services: Mapping[str, Any]) -> None:
        self._installer = installer
        self._services = services
        self._addons: dict[str, CompiledAddon] = {}
        self._manifests: dict[str, Manifest] = {}
        self._booted: set[str] = set()

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(self._addons))

    def manifest(self, key: str) -> Manifest:
        self._addon(key)
        return self._manifests[key]

    def register(self, key: str, addon: CompiledAddon) -> None:
        """Know `addon` under `key`.

        Raises:
            Conflict: the key is taken.
            ManifestInvalid: the manifest breaks the contract.
            Misconfigured: the manifest carries another key, or the object lacks a lifecycle method.
        """
        if not isinstance(addon, CompiledAddon):
            raise Misconfigured(
                f"addon {key!r}: {type(addon).__name__} lacks one of manifest, on_install, on_uninstall, on_enable,"
                " on_disable"
            )
        if key in self._addons:
            raise Conflict(f"addon {key!r} is registered already")
        manifest = parse_manifest(dict(addon.manifest()))
        if manifest.key != key:
            raise Misconfigured(f"addon {key!r}: its manifest carries the key {manifest.key!r}")
        self._addons[key] = addon
        self._manifests[key] = manifest

    async def boot(self, context_for: Callable[[str], BootContext]) -> None:
        """Call `boot` of every addon that has one, in key order, once."""
        for key in self.keys:
            boot = getattr(self._addons[key], "boot", None)
            if boot is None or key in self._booted:
                continue
            made = boot(context_for(key))
            if inspect.isawaitable(made):
                await made
            self._booted.add(key)

    async def install(self, key: str, organization_id: UUID) -> str:
        """Install and enable `key` for an organization. Returns the installation's secret, '' when it has one.

        Once the addon is installed anywhere its mode stays, and the same manifest keeps its grants and its fence; a
        changed one is granted what it declares, since code linked in is as trusted as the host.
        """
        addon = self._addon(key)
        content = write_bundle({"manifest.json": orjson.dumps(dict(addon.manifest()))})
        report = await self._installer.install(
            content,
            None,
            trusted=LINKED_IN,
            organizations=[organization_id],
            source="compiled",
            asker=Asker.ADMINISTRATOR,
        )
        await self._call(key, "on_install", addon.on_install, organization_id)
        await self._call(key, "on_enable", addon.on_enable, organization_id)
        return report.secrets.get(organization_id, "")

    async def enable(self, key: str, organization_id: UUID) -> None:
        addon = self._addon(key)
        await self._installer.enable(key, organization_id)
        await self._call(key, "on_enable", addon.on_enable, organization_id)

    async def disable(self, key: str, organization_id: UUID) -> None:
        addon = self._addon(key)
        await self._installer.disable(key, organization_id)
        await self._call(key, "on_disable", addon.on_disable, organization_id)

    async def uninstall(self, key: str, organization_id: UUID, *, drop: bool = False) -> None:
        """Call the addon's own farewell first: afterwards its data may be gone."""
        addon = self._addon(key)
        await self._call(key, "on_uninstall", addon.on_uninstall, organization_id)
        await self._installer.uninstall(key, organization_id, drop=drop)

    async def _call(
        self, key: str, name: str, handler: Callable[[LifecycleContext], Awaitable[None]], organization_id: UUID
    ) -> None:
        version = self._manifests[key].version
        context = LifecycleContext(
            addon_key=key,
            organization_id=organization_id,
            version=version,
            invocation_id=f"{key}:{version}:{organization_id}:{name}",
            services=self._services,
        )
        try:
            await handler(context)
        except Exception as error:
            log.exception("addon.lifecycle_failed", addon=key, handler=name, organization=str(organization_id))
            raise InstallFailed(f"{name} of addon {key!r} failed: {type(error).__name__}", step=name) from error

    def _addon(self, key: str) -> CompiledAddon:
        if key not in self._addons:
            raise NotFound(f"no compiled addon {key[:64]!r} is registered", code="unknown_addon")
        return self._addons[key]
