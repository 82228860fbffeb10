"""Names of events: how those of row changes are made, and what any name or pattern may look like."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from metacore.errors import InvalidInput

MAX_NAME: Final = 255
"""What the column `event_type` holds."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:-]*(\.[A-Za-z0-9_:-]+)*")


class Verb(StrEnum):
    """The last word of a canonical event."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


def event_type(addon_key: str, model_key: str, verb: Verb | str) -> str:
    """`<addon>.<model>.<created|updated|deleted>`; the addon key of host models is `kernel`.

    Raises:
        ValueError: a verb that is none of the three.
    """
    return f"{addon_key}.{model_key}.{Verb(verb)}"


def check_name(name: str) -> str:
    """`name`, when it can be the name of an event: words of letters, digits, `_`, `-` and `:`, joined by dots.

    Raises:
        InvalidInput: anything else, or more than 255 characters.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"invalid event name {name[:64]!r}: words of letters, digits, _, - and : joined by dots are expected,"
            f" at most {MAX_NAME} characters",
            code="invalid_event",
        )
    return name


def check_pattern(pattern: str) -> str:
    """`pattern`, when it is a name, a `prefix.*` or `*`.

    Raises:
        InvalidInput: anything else.
    """
    if pattern == "*":
        return pattern
    check_name(pattern.removesuffix(".*"))
    return pattern


def patterns_of(name: str) -> list[str]:
    """Every pattern that matches the event `name`: itself, each `prefix.*`, and `*`."""
    patterns = [name, "*"]
    at = name.find(".")
    while at != -1:
        patterns.append(name[:at] + ".*")
        at = name.find(".", at + 1)
    return patterns
