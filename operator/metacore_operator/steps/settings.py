"""The settings that an Addon gives: from Secrets and ConfigMaps in their order, its own above them, all held against
the manifest before anything is installed. No message tells a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from metacore.errors import Refused, Unavailable
from metacore.installer.settings_merge import check_settings
from metacore.manifest.model import Manifest
from metacore.manifest.setting_values import is_text
from metacore_operator.outcomes import Outcome, Reason, Stalled, Waiting
from metacore_operator.resources.spec import KeyReference, SettingsSource
from metacore_operator.steps.context import Context, References

LARGEST_OBJECT = 256 * 1024
"""Bytes of one entry with several settings in it."""


async def gather(context: Context) -> Outcome | None:
    """Fill `context.settings`, or say what stands in the way."""
    assert context.bundle is not None
    spec, references, manifest = context.addon.spec, context.ports.references, context.bundle.manifest
    if spec.settings_from and references is None:
        return Stalled(Reason.SETTINGS_UNSUPPORTED, "spec.settingsFrom is not supported here")
    values: dict[str, Any] = {}
    try:
        for place, source in enumerate(spec.settings_from):
            assert references is not None
            values |= await _from(context, references, source, manifest, f"spec.settingsFrom[{place}]")
        values |= spec.settings
        check_settings(manifest, values)
    except Unavailable as error:
        return Waiting(Reason.REFERENCE_UNAVAILABLE, error.message)
    except Refused as error:
        return Stalled(Reason.SETTINGS_REFUSED, f"version {manifest.version}: {error.message}")
    context.settings = values
    return None


async def _from(
    context: Context, references: References, source: SettingsSource, manifest: Manifest, where: str
) -> dict[str, Any]:
    if source.secret_ref is not None:
        entries = await references.secret(context.addon, source.secret_ref.name)
        return decoded(entries, source.secret_ref, manifest, f"{where}, Secret {source.secret_ref.name!r}")
    assert source.config_map_ref is not None
    entries = await references.config_map(context.addon, source.config_map_ref.name)
    return decoded(entries, source.config_map_ref, manifest, f"{where}, ConfigMap {source.config_map_ref.name!r}")


def decoded(entries: Mapping[str, bytes], reference: KeyReference, manifest: Manifest, where: str) -> dict[str, Any]:
    """The settings in an object. With a key, that entry is a JSON object of settings; without, every entry is the
    setting of its name: text as it is, anything else as JSON.

    Raises:
        Unavailable: the entry is not there now.
        Refused: an entry cannot be read as that.
    """
    if reference.key:
        if reference.key not in entries:
            raise Unavailable(f"{where} has no entry {reference.key!r}")
        found = _json(entries[reference.key], f"{where}, entry {reference.key!r}")
        if not isinstance(found, dict):
            raise Refused(f"{where}, entry {reference.key!r} is no JSON object of settings", code="settings")
        return found
    declared = {setting.key: setting for setting in manifest.settings}
    values: dict[str, Any] = {}
    for name, content in entries.items():
        setting = declared.get(name)
        place = f"{where}, entry {name!r}"
        values[name] = _text(content, place) if setting is None or is_text(setting) else _json(content, place)
    return values


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(f"{where} is not UTF-8", code="settings") from None


def _json(content: bytes, where: str) -> Any:
    if len(content) > LARGEST_OBJECT:
        raise Refused(f"{where} is larger than {LARGEST_OBJECT} bytes", code="settings")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Refused(f"{where} is no JSON", code="settings") from None
