"""Manifests of version 2: flat, no `apiVersion`. Keys that the contract does not know are kept in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metacore.manifest import translations
from metacore.manifest.actions import read_v2_actions
from metacore.manifest.handlers import url_problem
from metacore.manifest.identity import (
    read_capabilities,
    read_description,
    read_key,
    read_permissions,
    read_range,
    read_requirements,
)
from metacore.manifest.model import Icon, Isolation, Manifest
from metacore.manifest.models import extended_models, read_extensions, read_models
from metacore.manifest.navigation import read_navigation
from metacore.manifest.runtime import (
    read_backend,
    read_events,
    read_frontend,
    read_lifecycle_hooks,
    read_tools,
)
from metacore.manifest.scope import Scope
from metacore.manifest.settings import read_settings
from metacore.manifest.walk import Node, kind_of, shown

ISOLATIONS = {"shared": Isolation.SHARED, "schema-per-tenant": Isolation.SCHEMA_PER_TENANT}
RESERVED_ISOLATION = "database-per-tenant"


def read_v2(root: Node) -> Manifest:
    """The manifest at `root`; problems are left in its report."""
    key = read_key(root)
    backend = read_backend(root)
    isolation = read_isolation(root, "tenant_isolation", ISOLATIONS, RESERVED_ISOLATION)
    models, scope = read_models(root, key, isolation, backend, v3=False)
    lifecycle, row_hooks = read_lifecycle_hooks(root, backend)
    manifest = Manifest(
        api="v2",
        key=key,
        **read_description(root),
        icon=_icon(root),
        price=root.raw("price"),
        kernel=read_range(root, "kernel"),
        requires=read_requirements(root, key),
        isolation=isolation,
        capabilities=read_capabilities(root),
        models=models,
        navigation=read_navigation(root, scope),
        settings=read_settings(root),
        actions=read_v2_actions(root, scope, backend, extended_models(root)),
        hooks=_hooks(root, scope),
        tools=read_tools(root, backend),
        events=read_events(root),
        lifecycle=lifecycle,
        lifecycle_hooks=row_hooks,
        i18n=translations.read_v2(root),
        frontend=read_frontend(root, key),
        backend=backend,
        permissions=read_permissions(root),
        extensions=read_extensions(root),
        signature=root.free("signature"),
        raw=dict(root.value),
    )
    root.warn_unknown()
    return manifest


def read_isolation(node: Node, key: str, known: dict[str, Isolation], reserved: str) -> Isolation:
    written = node.text(key, "shared")
    if written == reserved:
        node.refuse(key, f"{shown(written)} is reserved and cannot be installed", "isolation")
    elif written not in known:
        node.refuse(key, f"{shown(written)} is not one of {', '.join(known)}", "choice")
    return known.get(written, Isolation.SHARED)


def _icon(root: Node) -> Icon:
    """The triple of v2, or its older single word."""
    slug, word = root.text("icon_slug"), root.text("icon")
    kind = root.text("icon_type") or ("lucide" if slug or word else "")
    return Icon(type=kind, slug=slug or word, color=root.text("icon_color"))


def _hooks(root: Node, scope: Scope) -> dict[str, Any]:
    """`hooks{"<model>::<action>": url}`; other keys are events that the addon wants to hear of."""
    node = root.node("hooks")
    if node is None:
        return {}
    for name, value in node.value.items():
        model, separator, action = name.partition("::")
        if separator and (not model or not action):
            node.refuse(name, "must read <model>::<action>", "pattern")
        elif separator and scope.find(model) is None:
            node.warn(name, f"{shown(model)} is not a model of this manifest", "unknown_model")
        if isinstance(value, str):
            if problem := url_problem(value):
                node.refuse(name, problem, "url")
        elif not isinstance(value, Mapping | list | tuple):
            node.refuse(name, f"must be a URL or a path, not {kind_of(value)}", "type")
    return dict(node.value)
