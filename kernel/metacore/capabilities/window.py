"""A stretch of time up to now, as people write it: `24h`, `7d`, or the instant at which it begins."""

from __future__ import annotations

import datetime
import re
from typing import Final

from metacore.errors import InvalidInput

UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST: Final = datetime.timedelta(days=3_660)
_SPAN = re.compile(r"([1-9][0-9]{0,5})\s*([mhdw])")


def parse_since(text: str, now: datetime.datetime) -> datetime.datetime:
    """The instant at which the window `text` begins: a number with `m`, `h`, `d` or `w`, or an RFC 3339 instant.

    Raises:
        InvalidInput: it is none of these, has no zone, or is more than ten years ago.
    """
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        length = datetime.timedelta(**{UNITS[span[2]]: int(span[1])})
    else:
        try:
            begin = datetime.datetime.fromisoformat(text.strip())
        except ValueError:
            raise _refused(text) from None
        if begin.tzinfo is None:
            raise _refused(text)
        length = now - begin
    if length > LONGEST:
        raise _refused(text)
    return now - length


def _refused(text: str) -> InvalidInput:
    return InvalidInput(
        f"since {text[:40]!r}: write a span such as 24h, 90m or 7d, or an instant such as 2026-03-01T09:00:00Z",
        code="invalid_since",
    )
