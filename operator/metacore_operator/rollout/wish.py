"""What the ConfigMap of a release wishes for. It is read, and never written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metacore.capabilities.access import Mode
from metacore.settings import ENFORCE_WORDS
from metacore_operator.rollout.words import RolloutReason

ENTRY = "METACORE_ENFORCE"
REQUESTED_AT = "metacore.dev/requested-at"
"""Annotation of the ConfigMap: a new value asks for another try of a wish that was returned from."""
SHADOW_WORDS = frozenset({"", "0", "false", "no", "shadow"})
LONGEST_TEXT = 64
"""Characters of the wish and of the request that are kept and shown; the entry could hold a megabyte."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`text` is the entry as it stands there. `mode` is None when it means none; `reason` and `problem` say why."""

    text: str = ""
    mode: Mode | None = None
    asked: str = ""
    reason: RolloutReason = RolloutReason.WISH_MET
    problem: str = ""

    @property
    def absent(self) -> bool:
        return self.reason is RolloutReason.CONFIG_MAP_MISSING


def read_wish(document: Mapping[str, Any] | None, name: str) -> Wish:
    """The wish of a ConfigMap, or of None when there is no ConfigMap `name`.

    No entry means shadow, as it does for a kernel without that setting. A ConfigMap that is gone means nothing: whoever
    deletes and makes it again must not switch enforcement off in between.
    """
    if document is None:
        problem = f"there is no ConfigMap {name}, so nothing is wished for"
        return Wish(reason=RolloutReason.CONFIG_MAP_MISSING, problem=problem)
    text = str((document.get("data") or {}).get(ENTRY, ""))
    asked = str((document["metadata"].get("annotations") or {}).get(REQUESTED_AT, ""))[:LONGEST_TEXT]
    word = text.strip().lower()
    shown = text[:LONGEST_TEXT]
    if word in ENFORCE_WORDS:
        return Wish(shown, Mode.ENFORCE, asked)
    if word in SHADOW_WORDS:
        return Wish(shown, Mode.SHADOW, asked)
    known = ", ".join(sorted(ENFORCE_WORDS)), ", ".join(sorted(SHADOW_WORDS - {""}))
    problem = f"{ENTRY} in the ConfigMap {name} is {shown!r}; {known[0]} enforce, and {known[1]} or nothing do not"
    return Wish(shown, None, asked, RolloutReason.WISH_UNKNOWN, problem)
