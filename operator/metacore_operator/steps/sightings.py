"""Which bundle each Addon's source gave last, and which sources asked to be left alone for a while.

Kept in memory: after a restart the status tells which bundle that was, and a source may be asked once too often.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from metacore_operator.outcomes import ConditionType, Reason
from metacore_operator.resources.addon import FORCE, REQUESTED_AT, Addon
from metacore_operator.steps.state import InstalledAddon


@dataclass(frozen=True, slots=True)
class _Hold:
    generation: int
    asked: tuple[str, str]
    until: float
    message: str


class Sightings:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, str]] = {}
        self._holds: dict[str, _Hold] = {}
        self._looked: dict[str, tuple[str, str]] = {}

    def saw(self, addon: Addon, digest: str) -> None:
        """The source gave the bundle of `digest` for this generation of the spec."""
        self._seen[addon.metadata.uid] = (addon.metadata.generation, digest)

    def gave(self, addon: Addon, installed: InstalledAddon) -> bool:
        """Whether what is installed is what the source gave last for this very generation of the spec."""
        seen = self._seen.get(addon.metadata.uid)
        if seen is not None:
            return seen == (addon.metadata.generation, installed.digest)
        before = addon.status.condition(ConditionType.INSTALLED)
        return (
            before is not None
            and before.observed_generation == addon.metadata.generation
            and (before.status == "True" or before.reason == Reason.ORGANIZATIONS_MISSING)
            and addon.status.digest == installed.digest
        )

    def hold(self, addon: Addon, seconds: float, message: str) -> None:
        """The source does not want to be asked for so long, and said so with `message`."""
        until = self._clock() + seconds
        self._holds[addon.metadata.uid] = _Hold(addon.metadata.generation, _asked(addon), until, message)

    def held(self, addon: Addon) -> tuple[float, str] | None:
        """Seconds for which the source must not be asked yet, and why. A new spec may mean another source, and somebody
        who asks anew by an annotation gets one try."""
        hold = self._holds.get(addon.metadata.uid)
        if hold is None:
            return None
        rest = hold.until - self._clock()
        if rest <= 0 or hold.generation != addon.metadata.generation or hold.asked != _asked(addon):
            del self._holds[addon.metadata.uid]
            return None
        return rest, hold.message

    def looked(self, addon: Addon) -> None:
        """The source was asked for everything, as the annotations want."""
        self._looked[addon.metadata.uid] = _asked(addon)

    def has_looked(self, addon: Addon) -> bool:
        """Whether that was for these very annotations: a wish that stays open fetches everything once."""
        return self._looked.get(addon.metadata.uid) == _asked(addon)

    def forget(self, uid: str) -> None:
        self._seen.pop(uid, None)
        self._holds.pop(uid, None)
        self._looked.pop(uid, None)


def _asked(addon: Addon) -> tuple[str, str]:
    return addon.asked(REQUESTED_AT), addon.asked(FORCE)
