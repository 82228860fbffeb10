"""Settings that come with an installation: laid over what is stored, secrets sealed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from metacore.errors import NotWired, Problem, Refused
from metacore.installer.register import Wish
from metacore.installer.state import State
from metacore.manifest.model import Manifest, Setting
from metacore.manifest.setting_values import problem_of
from metacore.secrets import Sealer

SEALED = "$sealed"
"""The key of an object that stands for a secret value, as `metacore.addons.settings` reads and writes it, too."""


def check_settings(manifest: Manifest, given: Mapping[str, Any]) -> None:
    """Whether every given setting is one of the addon, and its value one that it can have.

    Raises:
        Refused: one is not; `problems` names each.
    """
    declared = {setting.key: setting for setting in manifest.settings}
    problems = [
        Problem(name, "unknown_setting", f"{name!r} is not a setting of addon {manifest.key!r}")
        if name not in declared
        else problem_of(declared[name], name, value)
        for name, value in given.items()
    ]
    wrong = [problem for problem in problems if problem is not None]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise Refused(f"setting {wrong[0].message}{more}", code="settings", problems=wrong)


def changed_settings(
    wish: Wish, state: State, organizations: Sequence[uuid.UUID], sealer: Sealer | None
) -> dict[uuid.UUID, dict[str, Any]]:
    """The settings to store, by organization, where they differ from what is stored."""
    changes = {}
    for organization in organizations:
        row = state.installed.get(organization)
        values = merged(wish.bundle.manifest, row.settings if row is not None else {}, wish.settings, sealer)
        if values is not None:
            changes[organization] = values
    return changes


def merged(
    manifest: Manifest, stored: Mapping[str, Any], given: Mapping[str, Any], sealer: Sealer | None
) -> dict[str, Any] | None:
    """`stored` with what `given` changes; None when nothing changes. A null takes a setting back to its default.

    Raises:
        NotWired: a secret is given and there is no master key to seal it with.
    """
    declared = {setting.key: setting for setting in manifest.settings}
    result = dict(stored)
    for name, value in given.items():
        if value is None:
            result.pop(name, None)
        elif not _same(result.get(name), value, declared[name], sealer):
            result[name] = _stored(value, declared[name], sealer)
    return None if result == dict(stored) else result


def _same(stored: Any, value: Any, setting: Setting, sealer: Sealer | None) -> bool:
    if not setting.secret or sealer is None:
        return bool(stored == value)
    sealed = stored.get(SEALED) if isinstance(stored, dict) else None
    return sealed is not None and sealer.holds(sealed, _text(value))


def _stored(value: Any, setting: Setting, sealer: Sealer | None) -> Any:
    if not setting.secret:
        return value
    if sealer is None:
        raise NotWired(f"setting {setting.key!r} is a secret: configure a master key to store it")
    return {SEALED: sealer.seal(_text(value))}


def _text(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
