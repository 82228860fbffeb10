"""Which mode holds, of all who have a say: pure precedence here, reading it in `mode_follower`.

A mode that the cluster gives is the pod's for its whole life. Elsewhere a followed file wins over what was asked for by
API, and that over the setting at start: the one who wins is always the one who can also take it back at once.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from metacore.capabilities.access import Mode
from metacore.settings import ENFORCE_WORDS

SHADOW_WORDS: Final = frozenset({"0", "false", "no", "shadow"})


class ModeSource(StrEnum):
    """Who decided."""

    CLUSTER = "cluster"
    FILE = "file"
    API = "api"
    SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for by API, and when."""

    mode: Mode
    by: str
    at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """Every say there is. `configured` is the setting (or `AppConfig.enforce`) of this process; with `fixed` it is the
    pod's own mode and nothing else counts. `file` and `asked` are None where nobody says anything."""

    configured: Mode
    fixed: bool = False
    file: Mode | None = None
    asked: Asked | None = None

    @property
    def source(self) -> ModeSource:
        if self.fixed:
            return ModeSource.CLUSTER
        if self.file is not None:
            return ModeSource.FILE
        return ModeSource.API if self.asked is not None else ModeSource.SETTINGS

    @property
    def mode(self) -> Mode:
        if self.fixed:
            return self.configured
        return self.file or (self.asked.mode if self.asked is not None else self.configured)


def mode_from_words(text: str) -> Mode | None:
    """The mode that `text` names; None when it names none, as a file does that is being written."""
    word = text.strip().lower()
    if word in ENFORCE_WORDS:
        return Mode.ENFORCE
    return Mode.SHADOW if word in SHADOW_WORDS else None
