"""Translations of an addon: nested trees in v2, inline messages or files of the bundle in v3, all flattened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metacore.manifest import names
from metacore.manifest.walk import Node, join, kind_of, shown

MAX_LEVELS = 12
Translations = dict[str, dict[str, str]]


def read_v2(root: Node) -> Translations:
    """`i18n{locale: tree}`."""
    node = root.node("i18n")
    if node is None:
        return {}
    found: Translations = {}
    for locale in node.value:
        if not names.LOCALE.fullmatch(locale):
            node.refuse(locale, f"{shown(locale)} {names.LOCALE_FORM}", "locale")
        found[locale] = _flat(node, locale)
    return found


def read_v3(root: Node) -> tuple[str, Translations, tuple[tuple[str, str], ...]]:
    """`i18n{default_locale, bundles[{locale, path | messages}]}`: default locale, messages, files (locale, path)."""
    node = root.node("i18n")
    if node is None:
        return "", {}, ()
    messages: Translations = {}
    files: list[tuple[str, str]] = []
    default = node.text("default_locale", pattern=names.LOCALE, form=names.LOCALE_FORM)
    for inner in node.nodes("bundles"):
        locale = inner.text("locale", required=True, pattern=names.LOCALE, form=names.LOCALE_FORM)
        path = inner.text("path", limit=500)
        if path and (path.startswith("/") or "\\" in path or ".." in path.split("/")):
            inner.refuse("path", f"{shown(path)} must be a path in the bundle", "path")
        elif path:
            files.append((locale, path))
        if inner.has("messages"):
            messages.setdefault(locale, {}).update(_flat(inner, "messages"))
        elif not path:
            inner.refuse("path", "is required", "required")
        inner.warn_unknown()
    node.warn_unknown()
    return default, messages, tuple(files)


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """`{"a": {"b": "x"}}` as `{"a.b": "x"}`; leaves that are no strings are left out."""
    found: dict[str, str] = {}
    pending: list[tuple[str, Any, int]] = [(str(key), value, 1) for key, value in reversed([*tree.items()])]
    while pending:
        path, value, level = pending.pop()
        if isinstance(value, str):
            found[path] = value
        elif isinstance(value, Mapping) and level < MAX_LEVELS:
            pending.extend((f"{path}.{key}", item, level + 1) for key, item in reversed([*value.items()]))
    return found


def _flat(node: Node, key: str) -> dict[str, str]:
    tree = node.free(key)
    pending: list[tuple[str, Any, int]] = [(join(node.path, key), tree, 0)]
    while pending:
        path, value, level = pending.pop()
        if isinstance(value, Mapping):
            if level == MAX_LEVELS:
                node.report.refuse(path, "too_deep", f"is nested deeper than {MAX_LEVELS} levels")
                continue
            pending.extend((join(path, name), item, level + 1) for name, item in reversed([*value.items()]))
        elif not isinstance(value, str):
            node.report.refuse(path, "type", f"must be a string, not {kind_of(value)}")
    return flatten(tree)
