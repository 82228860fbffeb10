"""Violations counted in memory until somebody writes them down: bounded, whatever an addon does."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from metacore.capabilities.enforcer import Violation

NO_ORGANIZATION: Final = UUID(int=0)
"""Stands for the organization of what no tenant did; part of a key, so it cannot be null."""
HOUR: Final = 3600
OTHERS: Final = "…"
"""The target under which an addon's violations are counted that have no room of their own."""
KEYS_PER_ADDON: Final = 1000
"""Distinct violations of one addon and hour in one process. An addon that invents targets fills no table with them."""
MOST_KEYS: Final = 20_000
"""Over all addons: some ten megabytes."""
MOST_TARGET, MOST_CALLER, MOST_ADDON, MOST_KIND = 255, 128, 48, 32
"""Characters that are kept, as the columns have them."""


@dataclass(frozen=True, slots=True)
class ViolationKey:
    """What is counted together. `hour` is the start of the hour in Unix seconds."""

    addon_key: str
    kind: str
    target: str
    organization_id: UUID
    caller: str
    mode: str
    forbidden: bool
    hour: int


@dataclass(frozen=True, slots=True)
class ViolationCount:
    """`count` violations between `first_at` and `last_at`, Unix seconds."""

    key: ViolationKey
    count: int
    first_at: float
    last_at: float


def key_of(violation: Violation) -> ViolationKey:
    access = violation.access
    return ViolationKey(
        addon_key=_clean(access.addon_key, MOST_ADDON),
        kind=_clean(access.kind, MOST_KIND),
        target=_clean(access.target, MOST_TARGET),
        organization_id=access.organization_id or NO_ORGANIZATION,
        caller=_clean(access.caller, MOST_CALLER),
        mode=violation.mode.value,
        forbidden=violation.forbidden,
        hour=int(violation.at) // HOUR * HOUR,
    )


class Tally:
    """Counts by key, safe from any thread. `drain` takes what was counted since the last time."""

    def __init__(self, *, keys_per_addon: int = KEYS_PER_ADDON, most_keys: int = MOST_KEYS) -> None:
        self._keys_per_addon = keys_per_addon
        self._most_keys = most_keys
        self._lock = threading.Lock()
        self._waiting: dict[ViolationKey, ViolationCount] = {}
        # Keys of the current hour, drained or not, so that draining often makes no room for inventing more.
        self._known: set[ViolationKey] = set()
        self._per_addon: dict[str, int] = {}
        self._hour = 0

    def add(self, key: ViolationKey, at: float) -> bool:
        """Count one. False when there was no room left even for its summary."""
        return self._merge(ViolationCount(key, 1, at, at))

    def restore(self, counts: Iterable[ViolationCount]) -> int:
        """Take back what could not be written. Returns how many violations had to be dropped."""
        return sum(count.count for count in counts if not self._merge(count))

    def drain(self) -> list[ViolationCount]:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def _merge(self, count: ViolationCount) -> bool:
        with self._lock:
            key = self._place(count.key)
            if key is None:
                return False
            known = self._waiting.get(key)
            if known is None:
                self._waiting[key] = replace(count, key=key)
            else:
                self._waiting[key] = ViolationCount(
                    key,
                    known.count + count.count,
                    min(known.first_at, count.first_at),
                    max(known.last_at, count.last_at),
                )
            return True

    def _place(self, key: ViolationKey) -> ViolationKey | None:
        """`key`, or what it is counted under when its addon has used up its room."""
        if key in self._waiting or key in self._known:
            return key
        if key.hour > self._hour:
            self._hour = key.hour
            self._known.clear()
            self._per_addon.clear()
        used = self._per_addon.get(key.addon_key, 0)
        if used >= self._keys_per_addon:
            key = replace(key, target=OTHERS, caller="")
            if key in self._waiting or key in self._known:
                return key
        if len(self._known) >= self._most_keys or len(self._waiting) >= self._most_keys:
            return None
        self._known.add(key)
        self._per_addon[key.addon_key] = used + 1
        return key


def _clean(text: str, most: int) -> str:
    """`text` cut and without what neither a column nor a line of a log should hold: controls, lone surrogates."""
    text = text[:most]
    return text if text.isprintable() else "".join(mark if mark.isprintable() else "�" for mark in text)
