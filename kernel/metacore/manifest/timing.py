"""When a schedule comes: durations and cron expressions, always in UTC.

Each organization's runs lie at a place of their own, the same every time, so that a thousand organizations with one
schedule do not begin in one second.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from typing import Final

from cronsim import CronSim, CronSimError

from metacore.errors import InvalidInput

_PART = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

WORDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
SHORTEST_SECONDS: Final = 1
"""A shorter duration means this one: a slot is a whole second."""
LONGEST_SECONDS: Final = 366 * 86_400
SPREAD_SECONDS: Final = 60
"""Within so many seconds after the time of a cron expression its runs begin, or a tenth of the way to the next."""


def duration_seconds(text: str) -> int | None:
    """Whole seconds of `1h30m`, at least `SHORTEST_SECONDS`; None when `text` is no duration above zero.

    Raises:
        InvalidInput: longer than a year.
    """
    if not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        return None
    if seconds > LONGEST_SECONDS:
        raise InvalidInput(f"{text!r} is longer than a year", code="schedule")
    return max(SHORTEST_SECONDS, round(seconds))


def check(every: str) -> None:
    """Raises:
    InvalidInput: `every` is neither a duration nor a cron expression of five fields that ever comes.
    """
    next_run(every, "", datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))


def next_run(every: str, place: str, after: datetime.datetime) -> tuple[datetime.datetime, datetime.datetime]:
    """The first slot of `every` after `after`, and when its run begins.

    `place` names who runs it: the same words always give the same time within the spread. A duration repeats from
    1970 on, moved by the place, so it neither drifts nor depends on when it was installed.

    Raises:
        InvalidInput: `every` cannot be read, or never comes.
    """
    moment = after.astimezone(datetime.UTC)
    seconds = duration_seconds(every)
    if seconds is not None:
        offset = _fraction(place) * seconds
        at = moment.timestamp()
        slot = (int((at - offset) // seconds) + 1) * seconds + offset
        whole = datetime.datetime.fromtimestamp(int(slot), datetime.UTC)
        if whole <= moment:
            whole += datetime.timedelta(seconds=seconds)
        return whole, whole
    slots = _cron(every, moment)
    slot_at = next(slots, None)
    if slot_at is None:
        raise InvalidInput(f"{every!r} never comes", code="schedule")
    following = next(slots, None)
    gap = (following - slot_at).total_seconds() if following is not None else float(SPREAD_SECONDS * 10)
    return slot_at, slot_at + datetime.timedelta(seconds=_fraction(place) * min(SPREAD_SECONDS, gap / 10))


def _cron(every: str, after: datetime.datetime) -> CronSim:
    expression = WORDS.get(every, every)
    if len(expression.split()) != 5:
        raise InvalidInput(
            f"{every!r} must be a duration such as 5m, or a cron expression of five fields", code="schedule"
        )
    try:
        return CronSim(expression, after)
    except CronSimError as error:
        raise InvalidInput(f"{every!r} is no cron expression: {error}", code="schedule") from error


def _fraction(place: str) -> float:
    """A number from 0 to below 1 that is the same for the same words."""
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=6).digest()) / 2**48
