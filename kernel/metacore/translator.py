"""Texts by locale: catalogs of the host and of addons, and the choice of a locale for a caller."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from metacore.metadata.labels import humanize
from metacore.metadata.translation import Translator

__all__ = ["CatalogTranslator", "Catalogs", "Translator", "humanized"]

Catalogs = Mapping[str, Mapping[str, str]]
"""Texts by locale, then key: `{"es": {"models.tickets.title": "Incidencias"}}`."""

MAX_HEADER = 512
_RANGE = re.compile(r"\s*(\*|[A-Za-z]{1,8}(?:[-_][A-Za-z0-9]{1,8})*)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?")


class CatalogTranslator:
    """Looks a key up in the host's catalogs, in the addon's own, in those of other addons; per locale from the exact
    one (`es-MX`) over its language (`es`) to the default. A key that nobody translates becomes its last segment in
    words.
    """

    def __init__(self, catalogs: Catalogs | None = None, *, default_locale: str = "en") -> None:
        self.default_locale = _canonical(default_locale)
        self._host = _normalized(catalogs or {})
        self._addons: dict[str, dict[str, dict[str, str]]] = {}
        self._locales = self._known_locales()

    def replace_addons(self, catalogs: Mapping[str, Catalogs]) -> None:
        """Serve exactly these addons' texts (by addon key), from now on."""
        self._addons = {key: _normalized(catalogs[key]) for key in sorted(catalogs)}
        self._locales = self._known_locales()

    @property
    def locales(self) -> frozenset[str]:
        """Every locale that has texts, and the default one; lower case with `-`."""
        return self._locales

    def negotiate(self, accept_language: str) -> str:
        """The best known locale for an `Accept-Language` header (RFC 9110, lookup of RFC 4647); else the default."""
        for wanted in _preferences(accept_language[:MAX_HEADER]):
            if wanted == "*":
                return self.default_locale
            for locale in _widening(wanted):
                if locale in self._locales:
                    return locale
        return self.default_locale

    def translate(self, key: str, locale: str, *, addon_key: str = "") -> str:
        """The text of `key`; never raises and never gives the key back."""
        own = self._addons.get(addon_key, {})
        for name in (*_widening(_canonical(locale)), *_widening(self.default_locale)):
            for catalogs in (self._host, own, *self._addons.values()):
                text = catalogs.get(name, {}).get(key)
                if text:
                    return text
        return humanized(key)

    def _known_locales(self) -> frozenset[str]:
        names = {self.default_locale, *self._host}
        for catalogs in self._addons.values():
            names |= catalogs.keys()
        return frozenset(names)


def humanized(key: str) -> str:
    """`models.tickets.columns.due_at` → `Due at`."""
    return humanize(key.rsplit(".", 1)[-1])


def _canonical(locale: str) -> str:
    return locale.replace("_", "-").lower()


def _normalized(catalogs: Catalogs) -> dict[str, dict[str, str]]:
    return {_canonical(locale): dict(texts) for locale, texts in catalogs.items()}


def _widening(locale: str) -> Iterator[str]:
    """`es-mx`, then `es`."""
    parts = locale.split("-")
    for size in range(len(parts), 0, -1):
        yield "-".join(parts[:size])


def _preferences(header: str) -> list[str]:
    """The ranges of the header, most wanted first; what cannot be read is passed over."""
    ranked: list[tuple[float, str]] = []
    for part in header.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            continue
        quality = float(match.group(2)) if match.group(2) else 1.0
        if quality > 0:
            ranked.append((-quality, _canonical(match.group(1))))
    return [name for _, name in sorted(ranked, key=lambda item: item[0])]
