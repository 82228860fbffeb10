"""Who an addon is and what it needs: key, version, icon, requirements, capabilities, permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from metacore.errors import InvalidInput
from metacore.manifest import names
from metacore.manifest.capabilities import KINDS, target_problem
from metacore.manifest.model import Capability, Requirement
from metacore.manifest.ranges import parse_range, parse_version
from metacore.manifest.walk import Node, kind_of, refuse_repeats, shown

KERNEL = "kernel"


class Described(TypedDict):
    name: str
    description: str
    version: str
    category: str
    author: str
    website: str
    license: str
    readme: str
    screenshots: tuple[str, ...]
    features: tuple[str, ...]


def read_key(node: Node) -> str:
    """The addon's key. The suffix of tenant schemas is refused: `addon_a_deadbeef` could be addon `a` of a tenant."""
    key = node.text("key", required=True, pattern=names.ADDON_KEY, form=names.ADDON_KEY_FORM)
    if key == KERNEL:
        node.refuse("key", f"{shown(key)} is the kernel itself", "reserved")
    if names.TENANT_SUFFIX.fullmatch(key):
        node.refuse(
            "key", f"{shown(key)} must not end in _ and eight hex digits, as the schemas of tenants do", "reserved"
        )
    return key


def read_description(node: Node) -> Described:
    """What v2 has at the top and v3 in `metadata`."""
    version = node.text("version", required=True)
    if version:
        try:
            parse_version(version)
        except InvalidInput as error:
            node.refuse("version", error.message, "version")
    return Described(
        name=node.text("name", required=True, limit=200),
        description=node.text("description"),
        version=version,
        category=node.text("category"),
        author=_author(node),
        website=node.text("website"),
        license=node.text("license"),
        readme=node.text("readme", limit=200_000),
        screenshots=node.texts("screenshots"),
        features=node.texts("features"),
    )


def read_range(node: Node, key: str) -> str:
    """A version range; absent means any."""
    written = node.text(key, "*")
    try:
        parse_range(written)
    except InvalidInput as error:
        node.refuse(key, error.message, "version_range")
        return "*"
    return written


def read_requirements(node: Node, own_key: str) -> tuple[Requirement, ...]:
    """`requires[]`: objects `{key, version, optional, reason}`; v2 also has bare keys."""
    found: list[Requirement] = []
    for path, item in node.members("requires"):
        if isinstance(item, str):
            inner = Node({"key": item}, path, node.report)
        elif isinstance(item, Mapping):
            inner = Node(item, path, node.report)
        else:
            node.report.refuse(path, "type", f"must be a requirement, not {kind_of(item)}")
            continue
        key = inner.text("key", required=True, pattern=names.ADDON_KEY, form=names.ADDON_KEY_FORM)
        if key and key == own_key:
            inner.refuse("key", "an addon cannot require itself", "requires")
        if any(known.key == key for known in found):
            inner.refuse("key", f"{shown(key)} is required twice", "duplicate")
        found.append(
            Requirement(
                key=key,
                version=read_range(inner, "version"),
                optional=inner.flag("optional"),
                reason=inner.text("reason"),
            )
        )
        inner.know("label", "name")
        inner.warn_unknown()
    return tuple(found)


def read_capabilities(root: Node) -> tuple[Capability, ...]:
    found: list[Capability] = []
    for node in root.nodes("capabilities"):
        kind, target = node.text("kind", required=True, choices=KINDS), node.text("target", required=True)
        if kind and target and (problem := target_problem(kind, target)):
            node.refuse("target", problem, "target")
        found.append(Capability(kind=kind, target=target, reason=node.text("reason")))
        node.warn_unknown()
    return tuple(found)


def read_permissions(node: Node) -> tuple[str, ...]:
    """`permissions[]`: names, or objects with a key."""
    found: list[str] = []
    for path, item in node.members("permissions"):
        if isinstance(item, str):
            name = item
        elif isinstance(item, Mapping):
            inner = Node(item, path, node.report)
            name = inner.text("key") or inner.text("name") or _model_scope(inner)
            if not name:
                inner.refuse("key", "is required", "required")
        else:
            node.report.refuse(path, "type", f"must be a permission, not {kind_of(item)}")
            continue
        if name and not names.NAME.fullmatch(name.rstrip("*").rstrip(".") or "x"):
            node.report.refuse(path, "pattern", f"{shown(name)} {names.NAME_FORM}")
        elif name in found:
            node.report.refuse(path, "duplicate", f"permission {shown(name)} is declared twice")
        elif name:
            found.append(name)
    return tuple(found)


def read_roles(node: Node) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    named: list[tuple[str, Node]] = []
    for inner in node.nodes("roles"):
        named.append((inner.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM), inner))
        inner.text("label")
        inner.text("description")
        inner.texts("permissions")
        inner.warn_unknown()
        found.append(dict(inner.value))
    refuse_repeats(named, "key", "role")
    return tuple(found)


def _model_scope(node: Node) -> str:
    """The v2 shape `{model, scope}` of a permission."""
    model, scope = node.text("model"), node.text("scope") or node.text("action")
    return f"{model}.{scope}" if model and scope else ""


def _author(node: Node) -> str:
    if isinstance(node.value.get("author"), Mapping):
        inner = node.node("author")
        return inner.text("name") if inner is not None else ""
    return node.text("author")
