"""Manifests of version 3: `apiVersion: asteby.com/v3`. Top-level keys that the contract does not know are refused."""

from __future__ import annotations

from typing import Any

from metacore.manifest import names, translations
from metacore.manifest.actions import read_v3_actions
from metacore.manifest.identity import (
    KERNEL,
    read_capabilities,
    read_description,
    read_key,
    read_permissions,
    read_range,
    read_requirements,
    read_roles,
)
from metacore.manifest.model import ActionDefinition, Backend, Icon, Isolation, Manifest, ModelDefinition, Requirement
from metacore.manifest.models import extended_models, read_models
from metacore.manifest.navigation import read_navigation
from metacore.manifest.runtime import (
    read_backend,
    read_connectors,
    read_events,
    read_frontend,
    read_lifecycle,
    read_schedules,
    read_subscriptions,
    read_tools,
    read_webhooks,
)
from metacore.manifest.scope import Scope
from metacore.manifest.settings import read_settings
from metacore.manifest.v2 import read_isolation
from metacore.manifest.walk import Node, refuse_repeats, shown

API_VERSION = "asteby.com/v3"
KINDS = {"Addon": "", "Preset": "preset", "Theme": "theme", "ConnectorPack": "connector_pack"}
"""Kinds, each with the top-level key that only it has."""
ISOLATIONS = {"shared": Isolation.SHARED, "schema": Isolation.SCHEMA_PER_TENANT}
RESERVED_ISOLATION = "database"
TENANT_COLUMN = "organization_id"
_CODELESS = frozenset({"Preset", "Theme"})
"""Kinds that own no models and run nothing."""


def read_v3(root: Node) -> Manifest:
    """The manifest at `root`; problems are left in its report."""
    root.know("apiVersion")
    kind = root.text("kind", "Addon", required=True, choices=KINDS)
    metadata = _part(root, "metadata", required=True)
    key = read_key(metadata)
    requires = _requirements(root, key)
    backend = read_backend(root)
    tenancy = _part(root, "tenancy")
    isolation = read_isolation(tenancy, "isolation", ISOLATIONS, RESERVED_ISOLATION)
    models, scope = read_models(root, key, isolation, backend, v3=True)
    contributions = _part(root, "contributions")
    rbac, extension_points = _part(root, "rbac"), _part(root, "extension_points")
    default_locale, messages, files = translations.read_v3(root)
    described = read_description(metadata)
    manifest = Manifest(
        api="v3",
        kind=kind,
        key=key,
        **described,
        icon=_icon(metadata),
        countries=metadata.texts("countries"),
        metadata_i18n=metadata.free("i18n"),
        kernel=next((item.version for item in requires if item.key == KERNEL), "*"),
        requires=tuple(item for item in requires if item.key != KERNEL),
        isolation=isolation,
        rls_column=_rls_column(tenancy),
        capabilities=read_capabilities(root),
        models=models,
        navigation=read_navigation(contributions, scope),
        settings=read_settings(root),
        actions=_actions(root, contributions, scope, backend),
        tools=read_tools(contributions, backend),
        events=read_events(extension_points),
        lifecycle=read_lifecycle(root, backend),
        default_locale=default_locale,
        i18n=messages,
        i18n_files=files,
        frontend=read_frontend(root, key),
        backend=backend,
        connectors=read_connectors(root, backend),
        schedules=read_schedules(root, backend),
        webhooks=read_webhooks(root, backend),
        roles=read_roles(rbac),
        permissions=read_permissions(rbac),
        contributions=_contributions(contributions, scope),
        subscriptions=read_subscriptions(contributions, backend),
        extension_points=dict(extension_points.value),
        billing=root.free("billing"),
        signature=root.free("signature"),
        preset=_preset(root, kind),
        theme=root.free("theme"),
        connector_pack=root.free("connector_pack"),
        raw=dict(root.value),
    )
    _check_kind(root, kind, models, manifest.actions)
    _check_extension_points(extension_points, scope)
    for node in (metadata, tenancy, contributions, rbac, extension_points):
        node.warn_unknown()
    for name in root.unknown():
        root.refuse(name, "is not a key of v3", "unknown_key")
    return manifest


def _part(root: Node, key: str, *, required: bool = False) -> Node:
    """The object at `key`, an empty one in its place where there is none."""
    node = root.node(key)
    if node is not None:
        return node
    if required and not root.has(key):
        root.refuse(key, "is required", "required")
        # What is missing inside an object that is missing itself is no further problem.
        return Node({"key": "x1", "name": "x", "version": "0.0.0"}, f"{root.path}.{key}", root.report)
    return Node({}, f"{root.path}.{key}", root.report)


def _requirements(root: Node, key: str) -> tuple[Requirement, ...]:
    node = _part(root, "compatibility")
    found = read_requirements(node, key)
    node.warn_unknown()
    return found


def _icon(metadata: Node) -> Icon:
    if isinstance(metadata.value.get("icon"), str):
        return Icon(type="lucide", slug=metadata.text("icon"))
    node = metadata.node("icon")
    if node is None:
        return Icon()
    icon = Icon(type=node.text("type"), slug=node.text("slug"), color=node.text("color"))
    node.warn_unknown()
    return icon


def _rls_column(tenancy: Node) -> str:
    """The kernel's row-level security stands on one column; another one would promise what does not happen."""
    column = tenancy.text("rls_column", pattern=names.COLUMN, form=names.COLUMN_FORM)
    if column and column != TENANT_COLUMN:
        tenancy.refuse(
            "rls_column", f"{shown(column)} is not allowed: rows are told apart by {TENANT_COLUMN}", "choice"
        )
    return column


def _actions(root: Node, contributions: Node, scope: Scope, backend: Backend | None) -> tuple[ActionDefinition, ...]:
    return read_v3_actions(contributions, scope, backend, extended_models(root))


def _contributions(node: Node, scope: Scope) -> dict[str, Any]:
    """The object as written. Dashboards, documents and notifications are looked at, who serves them reads them."""
    for part in ("dashboard", "documents", "notifications"):
        named: list[tuple[str, Node]] = []
        for inner in node.nodes(part):
            named.append((inner.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM), inner))
            holder = inner.node("query") if part == "dashboard" else inner
            model = holder.text("model") if holder is not None else ""
            if holder is not None and model and scope.find(model) is None and "." not in model:
                holder.warn("model", f"{shown(model)} is not a model of this manifest", "unknown_model")
        refuse_repeats(named, "key", part)
    node.nodes("slots")
    return dict(node.value)


def _check_kind(
    root: Node, kind: str, models: tuple[ModelDefinition, ...], actions: tuple[ActionDefinition, ...]
) -> None:
    for other, key in KINDS.items():
        if key and root.has(key) and kind != other:
            root.refuse(key, f"is only allowed in kind {other}, not in {kind}", "kind")
        elif key and kind == other and not root.has(key):
            root.refuse(key, f"is required in a {kind}", "required")
    if kind in _CODELESS:
        for key in ("models", "backend", "lifecycle", "schedules", "webhooks"):
            if root.value.get(key):
                root.refuse(key, f"is not allowed in a {kind}", "kind")
        if actions and not models:
            root.refuse("contributions", f"a {kind} has no actions", "kind")


def _preset(root: Node, kind: str) -> dict[str, Any]:
    node = root.node("preset")
    if node is None:
        return {}
    named: list[tuple[str, Node]] = []
    for inner in node.nodes("addons"):
        named.append((inner.text("key", required=True, pattern=names.ADDON_KEY, form=names.ADDON_KEY_FORM), inner))
        read_range(inner, "version")
        inner.flag("optional")
        inner.texts("requires")
        inner.warn_unknown()
    refuse_repeats(named, "key", "addon")
    if kind == "Preset" and not named:
        node.refuse("addons", "needs at least one addon", "required")
    node.free("defaults")
    node.warn_unknown()
    return dict(node.value)


def _check_extension_points(node: Node, scope: Scope) -> None:
    node.nodes("slot_kinds")
    for index, name in enumerate(node.texts("model_extensions_accepted")):
        if scope.find(name) is None:
            path = f"{node.path}.model_extensions_accepted[{index}]"
            node.report.refuse(path, "unknown_model", f"{shown(name)} is not a model of this manifest")
