"""What this process serves right now: live models and addons, and which organization has which.

The state is one immutable `Snapshot`, replaced as a whole, so a request reads one consistent picture however long it
takes. `addons.loader` fills it from the database; a host adds the models registered in code.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from metacore.db.catalog import StoredColumn
from metacore.errors import Fenced, NotFound
from metacore.ids import KERNEL_ADDON_KEY
from metacore.manifest.model import Capability, Isolation, Manifest, ModelDefinition
from metacore.metadata.model import ModalMetadata, TableMetadata


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model that is served.

    `definition` is what was declared (or read off the database), `stored` what the table really has, by column name.
    `schema` is the PostgreSQL schema of a shared addon, the prefix of tenant schemas (`addon_<key>`) when `isolation`
    is schema-per-tenant, and '' for the host's own tables and on SQLite. `revision` rises with every change of shape:
    compiled statements are cached under (key, revision). `table` and `modal` are final, derived where not declared.
    """

    key: str
    addon_key: str
    definition: ModelDefinition
    table_name: str
    schema: str
    isolation: Isolation
    stored: Mapping[str, StoredColumn]
    table: TableMetadata
    modal: ModalMetadata
    revision: int

    @property
    def names(self) -> frozenset[str]:
        """Every name that the model answers to: its key, and its table as the manifest calls it."""
        return frozenset({self.key, self.definition.table})

    def schema_of(self, organization_id: uuid.UUID) -> str:
        """The schema that holds this organization's rows."""
        if self.isolation is Isolation.SCHEMA_PER_TENANT and self.schema:
            return f"{self.schema}_{organization_id.hex[:8]}"
        return self.schema


@dataclass(frozen=True, slots=True)
class LiveAddon:
    """An addon as this process loaded it. `error` says why it is quarantined: nothing of it is served then."""

    key: str
    version: str
    digest: str
    manifest: Manifest
    mode: str = "inherit"
    grants: tuple[Capability, ...] = ()
    fenced_reason: str = ""
    error: str = ""
    models: Mapping[str, LiveModel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Installed:
    """One organization's installation of one addon."""

    installation_id: uuid.UUID
    addon_key: str
    version: str
    enabled: bool
    source: str = "bundle"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`models` holds every name a model answers to: its key and its table name."""

    revision: int = 0
    models: Mapping[str, LiveModel] = field(default_factory=dict)
    addons: Mapping[str, LiveAddon] = field(default_factory=dict)
    installed: Mapping[uuid.UUID, Mapping[str, Installed]] = field(default_factory=dict)


class Registry:
    """The current snapshot, and those who want to know when it changes."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.loaded = False
        self._host_models: dict[str, LiveModel] = {}
        self._subscribers: list[Callable[[Snapshot], None]] = []

    def on_change(self, callback: Callable[[Snapshot], None]) -> None:
        """Call `callback` with the new snapshot after every change; it must be quick and not raise."""
        self._subscribers.append(callback)

    def set_host_model(self, model: LiveModel) -> None:
        """Serve a model of the host; it belongs to the addon key `kernel` and to every organization."""
        self._host_models[model.key] = model
        self._publish(replace(self.snapshot, models=self._with_host_models(self.snapshot.addons)))

    @property
    def host_models(self) -> Mapping[str, LiveModel]:
        return dict(self._host_models)

    def replace(
        self,
        revision: int,
        addons: Mapping[str, LiveAddon],
        installed: Mapping[uuid.UUID, Mapping[str, Installed]],
    ) -> None:
        """Serve exactly these addons, at once."""
        self.loaded = True
        self._publish(Snapshot(revision, self._with_host_models(addons), dict(addons), dict(installed)))

    def model_for(self, name: str, organization_id: uuid.UUID) -> LiveModel:
        """The model called `name` (key or table) as `organization_id` may see it.

        Raises:
            NotFound: no such model, or its addon is not installed and enabled for that organization.
            Fenced: the addon's signature is no longer trusted.
        """
        snapshot = self.snapshot
        model = snapshot.models.get(name)
        if model is None:
            raise NotFound(f"unknown model {name[:64]!r}", code="unknown_model")
        if model.addon_key != KERNEL_ADDON_KEY:
            installation = snapshot.installed.get(organization_id, {}).get(model.addon_key)
            if installation is None:
                raise NotFound(f"unknown model {name[:64]!r}", code="unknown_model")
            if not installation.enabled:
                raise NotFound(
                    f"model {model.key!r} is not served: addon {model.addon_key!r} is disabled", code="unknown_model"
                )
            if snapshot.addons[model.addon_key].fenced_reason:
                raise Fenced(f"addon {model.addon_key!r} is fenced: its signature is no longer trusted")
        return model

    def models_of(self, organization_id: uuid.UUID) -> dict[str, LiveModel]:
        """Every model that `model_for` would give, by key."""
        snapshot = self.snapshot
        own = snapshot.installed.get(organization_id, {})
        return {
            model.key: model
            for model in snapshot.models.values()
            if model.addon_key == KERNEL_ADDON_KEY
            or (
                (installation := own.get(model.addon_key)) is not None
                and installation.enabled
                and not snapshot.addons[model.addon_key].fenced_reason
            )
        }

    def _with_host_models(self, addons: Mapping[str, LiveAddon]) -> dict[str, LiveModel]:
        models: dict[str, LiveModel] = {}
        for addon in addons.values():
            for model in addon.models.values():
                models.update(dict.fromkeys(model.names, model))
        for model in self._host_models.values():
            models.update(dict.fromkeys(model.names, model))
        return models

    def _publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for callback in self._subscribers:
            callback(snapshot)
