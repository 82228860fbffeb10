"""What is remembered of a change of the mode, as an annotation of the Deployment that it is about.

It is written in the same patch as the mode, so whoever takes over finds both or neither. It goes with the Deployment.
"""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, ValidationError

from metacore.capabilities.access import Mode
from metacore.settings import ENFORCE_WORDS
from metacore_operator.resources.strict import Strict
from metacore_operator.rollout.words import Phase, RolloutReason

ANNOTATION = "metacore.dev/rollout"
LONGEST_MESSAGE = 400
"""Characters of a refusal that are kept; annotations are meant to be small."""

MODE = "metacore.dev/mode"
"""Annotation of the pod template, which a pod reads through the downward API when it starts."""
Remembered = Literal[Phase.SETTLED, Phase.CANARY, Phase.ROLLING, Phase.RETURNING]


def mode_of(stamp: str) -> Mode:
    """As a kernel understands the annotation: whatever is no word for enforce means shadow."""
    return Mode.ENFORCE if stamp.strip().lower() in ENFORCE_WORDS else Mode.SHADOW


class Refusal(Strict):
    reason: RolloutReason
    message: str = Field(max_length=LONGEST_MESSAGE)


class Record(Strict):
    """`stamp` is what the pod template carries, or shall, `former` what it carried before: so going back makes no new
    pods where the old ones are left. `since` is when `phase` began, `watched` when the first pod of a canary was seen
    serving.

    `from_nothing` says that no pod served when it began.

    `wish` and `asked` are what was wished for when it began. With a `refusal` they are what is not tried again.
    """

    phase: Remembered
    stamp: str
    former: str
    since: datetime.datetime
    watched: datetime.datetime | None = None
    from_nothing: bool = False
    wish: str = ""
    asked: str = ""
    refusal: Refusal | None = None

    @property
    def under_way(self) -> bool:
        return self.phase is not Phase.SETTLED

    @property
    def mode(self) -> Mode:
        """Where the pods are, or are led to."""
        return mode_of(self.stamp)

    @property
    def former_mode(self) -> Mode:
        return mode_of(self.former)


def read_record(text: str) -> Record | None:
    """The record in an annotation; None when it cannot be understood."""
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        return None


def write_record(record: Record) -> str:
    return record.model_dump_json(by_alias=True, exclude_none=True)
