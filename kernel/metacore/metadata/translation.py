"""Translating what a client shows: every text that is a key such as `models.tickets.title`."""

from __future__ import annotations

from typing import Any, Protocol

PREFIX = "models."

IDENTITIES = frozenset(
    {"key", "name", "value", "column", "ref", "type", "searchEndpoint", "linkUrl", "default", "defaultValue"}
)
"""Keys whose values name things; a translation would break what they point to."""


class Translator(Protocol):
    """Texts by key and locale; a host may bring its own."""

    def negotiate(self, accept_language: str) -> str:
        """The locale to answer in for an `Accept-Language` header ('' when there was none)."""

    def translate(self, key: str, locale: str, *, addon_key: str = "") -> str:
        """The text of `key`, never raising; the catalog of `addon_key` is preferred over those of other addons."""


def translated(shape: Any, translator: Translator, locale: str, addon_key: str) -> Any:
    """`shape` (JSON) with every text that starts with `models.` replaced; identities stay as they are."""
    if isinstance(shape, str):
        return translator.translate(shape, locale, addon_key=addon_key) if shape.startswith(PREFIX) else shape
    if isinstance(shape, list):
        return [translated(item, translator, locale, addon_key) for item in shape]
    if isinstance(shape, dict):
        return {
            name: part if name in IDENTITIES else translated(part, translator, locale, addon_key)
            for name, part in shape.items()
        }
    return shape
