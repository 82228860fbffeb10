"""Which actions a model has for an organization, and what each of them runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from metacore.addons.invocation import Handler
from metacore.errors import NotFound, NotWired
from metacore.manifest.model import ActionDefinition, Manifest
from metacore.registry import LiveAddon, LiveModel, Registry

COLLECTION_PLACEMENTS = frozenset({"table", "create"})


@dataclass(frozen=True, slots=True)
class FoundAction:
    """An action with the addon that declares it: the model's own, or one that adds to the model of another."""

    addon: LiveAddon
    definition: ActionDefinition

    @property
    def is_collection(self) -> bool:
        """Whether it is called without a row."""
        return self.definition.placement in COLLECTION_PLACEMENTS

    @property
    def runs(self) -> bool:
        """Whether there is something to run at all."""
        try:
            return bool(self.handler.kind)
        except NotWired:
            return False

    @property
    def handler(self) -> Handler:
        """What to run (contract 7).

        Raises:
            NotWired: the manifest names nothing: the action is a link, or a client's own business.
        """
        action, manifest = self.definition, self.addon.manifest
        if action.trigger:
            return Handler(action.trigger, action.function, action.url)
        url = _hook(manifest, action)
        if url is None and not (manifest.backend is not None and manifest.backend.url):
            raise NotWired(f"action {action.key!r} has nothing to run", code="no_handler")
        return Handler("webhook", url=url or "")


def actions_of(registry: Registry, model: LiveModel, organization_id: UUID) -> Iterator[FoundAction]:
    """The actions of a model: its own addon's first, then those of others in key order. A key may come twice."""
    snapshot = registry.snapshot
    installed = snapshot.installed.get(organization_id, {})
    own = {model.addon_key: None}
    for key in [*own, *sorted(installed.keys() - own.keys())]:
        addon = snapshot.addons.get(key)
        if addon is None or addon.error or addon.fenced_reason or key not in installed or not installed[key].enabled:
            continue
        for definition in addon.manifest.actions:
            if _means(definition.model, model, foreign=key != model.addon_key):
                yield FoundAction(addon, definition)


def find_action(registry: Registry, model: LiveModel, organization_id: UUID, key: str) -> FoundAction:
    """Raises NotFound."""
    for found in actions_of(registry, model, organization_id):
        if found.definition.key == key:
            return found
    raise NotFound(f"model {model.key!r} has no action {key[:64]!r}", code="unknown_action")


def _means(name: str, model: LiveModel, *, foreign: bool) -> bool:
    if name in model.names:
        return True
    addon, dot, rest = name.rpartition(".")
    return foreign and bool(dot) and addon in (model.addon_key, f"addon_{model.addon_key}") and rest in model.names


def _hook(manifest: Manifest, action: ActionDefinition) -> str | None:
    """The URL under `hooks["<model>::<action>"]`, the model by any name that the manifest gives it."""
    declared = manifest.model(action.model)
    names = [action.model, *((declared.key, declared.table) if declared is not None else ())]
    for name in dict.fromkeys(names):
        hook = manifest.hooks.get(f"{name}::{action.key}")
        if isinstance(hook, dict):
            hook = hook.get("url") or hook.get("endpoint")
        if isinstance(hook, str) and hook:
            return hook
    return None
