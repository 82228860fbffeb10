"""Bundles that are entries of a ConfigMap, which Kubernetes limits to one mebibyte."""

from __future__ import annotations

from metacore.errors import Refused, Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.sources.folder import SIGNATURE_SUFFIX
from metacore_operator.sources.references import References
from metacore_operator.sources.source import Fetched, Look, Stored, nothing_stored


class ConfigMapSource:
    """Reads the entry `key`, and the signature from the entry `<key>.sig.json` beside it."""

    def __init__(self, references: References) -> None:
        self._references = references

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        source = addon.spec.source.config_map
        if source is None:
            raise Refused("the Addon names no ConfigMap", code="source_refused")
        entries = await self._references.config_map(addon, source.name)
        content = entries.get(source.key)
        if content is None:
            raise Unavailable(f"ConfigMap {source.name!r} has no entry {source.key!r}")
        return Fetched(content, entries.get(source.key + SIGNATURE_SUFFIX), f"ConfigMap {source.name}/{source.key}")
