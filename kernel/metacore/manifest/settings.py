"""Settings that an organization gives an addon; also the credentials of connectors, which have the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metacore.manifest import names
from metacore.manifest.columns import MAX_REGEX, read_options
from metacore.manifest.model import Setting
from metacore.manifest.walk import Node, refuse_repeats, shown

SECRET_TYPES = frozenset({"secret", "password"})
CHOICE_TYPES = frozenset({"select", "multi_select"})
_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    "integer": ((int,), "a whole number"),
    "int": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "decimal": ((int, float), "a number"),
    "float": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "bool": ((bool,), "true or false"),
    "string": ((str,), "a string"),
    "text": ((str,), "a string"),
    "textarea": ((str,), "a string"),
    "secret": ((str,), "a string"),
    "password": ((str,), "a string"),
    "email": ((str,), "a string"),
    "url": ((str,), "a string"),
}


def read_settings(root: Node, key: str = "settings") -> tuple[Setting, ...]:
    found: list[tuple[Setting, Node]] = []
    for node in root.nodes(key):
        name = node.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM)
        kind = node.text("type", "string", pattern=names.NAME, form=names.NAME_FORM)
        word = "default_value" if node.has("default_value") else "default"
        node.know("default_value", "default")
        setting = Setting(
            key=name,
            label=node.text("label"),
            type=kind,
            default_value=node.raw(word),
            options=read_options(node),
            secret=node.flag("secret") or kind in SECRET_TYPES,
            required=node.flag("required"),
            description=node.text("description"),
            validation=_validation(node),
        )
        _check_default(node, word, setting)
        if kind in CHOICE_TYPES and not setting.options:
            node.refuse("options", f"is required for a {kind}", "required")
        if setting.secret and setting.default_value not in (None, ""):
            node.refuse(word, "a secret has no default: everybody could read it in the bundle", "secret")
        node.warn_unknown()
        found.append((setting, node))
    refuse_repeats([(setting.key, node) for setting, node in found], "key", "setting")
    return tuple(setting for setting, _ in found)


def _validation(node: Node) -> str:
    """A rule as text; the object form of columns gives its regex."""
    if not isinstance(node.value.get("validation"), Mapping):
        return node.text("validation", limit=MAX_REGEX)
    inner = node.node("validation")
    if inner is None:
        return ""
    regex = inner.text("regex", limit=MAX_REGEX)
    inner.warn_unknown()
    return regex


def _check_default(node: Node, word: str, setting: Setting) -> None:
    value: Any = setting.default_value
    if value is None or value == "":
        return
    if setting.options and setting.type in CHOICE_TYPES:
        given = value if isinstance(value, list) else [value]
        choices = [option.value for option in setting.options]
        for item in given:
            if item not in choices:
                node.refuse(word, f"{shown(item)} is not one of the options", "choice")
        return
    types, words = _EXPECTED.get(setting.type.lower(), ((object,), ""))
    wrong_bool = isinstance(value, bool) and bool not in types and object not in types
    if wrong_bool or not isinstance(value, types):
        node.refuse(word, f"{shown(value)} must be {words}", "type")
