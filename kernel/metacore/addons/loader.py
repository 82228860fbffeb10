"""Following the registry row: what is installed in the database becomes what this process serves.

A change raises the registry's revision and notifies; a heartbeat compares the revision, so a lost notification costs
one interval. Whatever cannot be loaded is quarantined with its reason, and everything else serves on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

from metacore.addons.live_models import ModelReader
from metacore.addons.stored import AddonRow, Picture, read_bundle_row, read_picture
from metacore.bundle.read import Bundle, digest_of, read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, verify
from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import MetacoreError
from metacore.ids import KERNEL_ADDON_KEY
from metacore.logs import get_logger
from metacore.manifest.model import Capability, Manifest
from metacore.metrics import Metrics
from metacore.registry import Installed, LiveAddon, Registry

log = get_logger(__name__)

COMPILED = "compiled"
"""The source of an addon that is linked into the host: its manifest needs no signature."""


class CodePreparer(Protocol):
    """What has the code of addons ready before they are served; `metacore.addons.sandbox` has the real one."""

    def prepared(self, digest: str) -> bool: ...

    async def prepare(self, bundle: Bundle) -> None: ...


class Loader:
    """Keeps a `Registry` at the revision of the database. `trusted` None believes what the installer verified. With
    `code`, an addon whose module cannot run is quarantined."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        listener: Listener | None = None,
        trusted: TrustedKeys | None = None,
        metrics: Metrics | None = None,
        code: CodePreparer | None = None,
    ) -> None:
        self._code = code
        self._database = database
        self._registry = registry
        self._trusted = trusted
        self._metrics = metrics
        self._models = ModelReader(database)
        self._known: dict[str, tuple[AddonRow, frozenset[uuid.UUID], LiveAddon]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._wanted = asyncio.Event()
        self._lock = asyncio.Lock()
        self._loaded: list[Callable[[], Awaitable[None]]] = []
        self._loads = 0
        self._passing = False
        self._task: asyncio.Task[None] | None = None
        if listener is not None:
            listener.subscribe(channels.REGISTRY, lambda _payload: self._wanted.set())
            listener.on_reconnect(self._wanted.set)

    @property
    def revision(self) -> int:
        """The revision that is served."""
        return self._registry.snapshot.revision

    @property
    def unsettled(self) -> bool:
        """Whether trying again may help: nothing could be loaded yet, or an addon failed for a reason that passes."""
        return self._passing or not self._registry.loaded

    def status(self) -> dict[str, dict[str, str]]:
        """Per addon key what is loaded here: `{"digest": …, "error": ''}`; `error` says why it is quarantined."""
        return {
            key: {"digest": addon.digest, "error": addon.error} for key, addon in self._registry.snapshot.addons.items()
        }

    def on_loaded(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await `callback` whenever another picture is served than before."""
        self._loaded.append(callback)

    async def start(self) -> None:
        """Load once, then follow. A database that cannot be read yet is tried again; readiness tells of it."""
        await self._try_to_load()
        self._task = asyncio.create_task(self._follow(), name="metacore-loader")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def seen(self, revision: int) -> None:
        """A heartbeat read `revision`: load soon when it is not the one that is served. Does not wait for it."""
        if revision != self.revision or self.unsettled:
            self._wanted.set()

    async def load(self) -> int:
        """Read the database and serve what it says, at once. Returns the revision."""
        async with self._lock:
            picture = await read_picture(self._database)
            if picture.revision == self.revision and not self.unsettled:
                return picture.revision
            self._passing = False
            addons: dict[str, LiveAddon] = {}
            for row in picture.addons:
                addons[row.key] = await self._live(row, picture)
            addons = self._without_conflicts(addons)
            self._known = {key: known for key, known in self._known.items() if key in addons}
            digests = {addon.digest for addon in addons.values()}
            self._manifests = {digest: manifest for digest, manifest in self._manifests.items() if digest in digests}
            self._loads += 1
            self._registry.replace(picture.revision, addons, _installed(picture))
        self._count(addons)
        log.info("registry.loaded", revision=picture.revision, addons=len(addons))
        return picture.revision

    async def _follow(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            before = self._loads
            await self._try_to_load()
            if self._loads != before:
                await self._tell()

    async def _tell(self) -> None:
        for callback in self._loaded:
            try:
                await callback()
            except Exception:
                log.exception("registry.callback_failed")

    async def _try_to_load(self) -> None:
        try:
            await self.load()
        except Exception:
            # The next notification or heartbeat tries again; until then the old picture is served.
            log.exception("registry.load_failed")

    async def _live(self, row: AddonRow, picture: Picture) -> LiveAddon:
        """The addon of `row`, as it was when nothing about it changed, else made anew."""
        organizations = frozenset(picture.organizations_of(row.key))
        known = self._known.get(row.key)
        if known is not None and known[0] == row and known[1] == organizations and not known[2].error:
            return known[2]
        try:
            addon = await self._make(row, picture)
        except MetacoreError as error:
            addon = self._quarantined(row, error.message)
        except Exception as error:
            log.exception("addon.load_failed", addon=row.key)
            self._passing = True
            addon = self._quarantined(row, f"could not be loaded: {type(error).__name__}")
        if addon.error:
            log.error("addon.quarantined", addon=row.key, digest=row.digest, reason=addon.error)
        self._known[row.key] = (row, organizations, addon)
        return addon

    async def _make(self, row: AddonRow, picture: Picture) -> LiveAddon:
        manifest = self._manifests.get(row.digest)
        brings_code = manifest is None or (manifest.backend is not None and manifest.backend.runtime == "wasm")
        if manifest is None or (self._code is not None and brings_code and not self._code.prepared(row.digest)):
            bundle = await self._read(row)
            manifest = bundle.manifest
            if self._code is not None and not row.fenced_reason:
                await self._code.prepare(bundle)
        known = self._known.get(row.key)
        before = known[2].models if known is not None else {}
        models = await self._models.read(manifest, picture.organizations_of(row.key), before)
        return LiveAddon(
            key=row.key,
            version=row.version,
            digest=row.digest,
            manifest=manifest,
            mode=row.mode,
            grants=tuple(Capability.model_validate(grant) for grant in row.grants),
            fenced_reason=row.fenced_reason,
            models=models,
        )

    async def _read(self, row: AddonRow) -> Bundle:
        """The bundle of an addon, checked again: the database is not trusted to hold what was once verified.

        Raises:
            MetacoreError: it is missing, is not what its digest says, or its signature does not hold.
        """
        stored = await read_bundle_row(self._database, row.digest)
        signature = Signature.model_validate(stored.signature) if stored.signature else None

        def check() -> Bundle:
            if digest_of(stored.content) != row.digest:
                raise MetacoreError(f"the stored bundle is not the one with digest {row.digest}")
            if self._trusted is not None and row.source != COMPILED and not row.fenced_reason:
                verify(stored.content, signature, self._trusted)
            return read_bundle(stored.content)

        bundle = await asyncio.to_thread(check)
        if bundle.manifest.key != row.key:
            raise MetacoreError(f"the stored bundle is of addon {bundle.manifest.key!r}")
        # Kept only from here on: what stands in for the manifest of a quarantined addon must never be taken for it.
        self._manifests[row.digest] = bundle.manifest
        return bundle

    def _quarantined(self, row: AddonRow, reason: str) -> LiveAddon:
        manifest = self._manifests.get(row.digest) or Manifest(
            api="v3", key=row.key, name=row.key, version=row.version or "0.0.0"
        )
        return LiveAddon(
            key=row.key, version=row.version, digest=row.digest, manifest=manifest, mode=row.mode, error=reason
        )

    def _without_conflicts(self, addons: Mapping[str, LiveAddon]) -> dict[str, LiveAddon]:
        """Quarantine every addon that claims a model name of the host or of an addon before it."""
        taken = {name: KERNEL_ADDON_KEY for model in self._registry.host_models.values() for name in model.names}
        checked: dict[str, LiveAddon] = {}
        for key in sorted(addons):
            addon = addons[key]
            names = {name for model in addon.models.values() for name in model.names}
            clash = next((name for name in sorted(names) if name in taken), None)
            if clash is not None:
                reason = f"model {clash!r} is served by {taken[clash]!r} already"
                log.error("addon.quarantined", addon=key, digest=addon.digest, reason=reason)
                addon = replace(addon, models={}, error=reason)
            else:
                taken.update(dict.fromkeys(names, key))
            checked[key] = addon
        return checked

    def _count(self, addons: Mapping[str, LiveAddon]) -> None:
        if self._metrics is not None:
            self._metrics.registry_revision.set(self.revision)
            self._metrics.addons_loaded.set(sum(not addon.error for addon in addons.values()))
            self._metrics.addons_quarantined.set(sum(bool(addon.error) for addon in addons.values()))


def _installed(picture: Picture) -> dict[uuid.UUID, dict[str, Installed]]:
    by_organization: dict[uuid.UUID, dict[str, Installed]] = {}
    for row in picture.installed:
        by_organization.setdefault(row.organization_id, {})[row.addon_key] = Installed(
            installation_id=row.id,
            addon_key=row.addon_key,
            version=row.version,
            enabled=row.status == "enabled" and picture.enabled(row.addon_key),
            source=row.source,
        )
    return by_organization
