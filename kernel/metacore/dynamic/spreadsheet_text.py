"""Text that a spreadsheet program would run as a formula, made harmless in CSV and turned back on the way in.

OWASP, "CSV Injection": a cell that starts with `=`, `+`, `-`, `@`, tab or carriage return may be evaluated. One
apostrophe in front makes it text. An apostrophe that stood there already gets one more, so that taking one away is
always the exact way back.
"""

from __future__ import annotations

import re

_DANGEROUS = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")


def guard(text: str) -> str:
    """`text` as it may stand in a CSV cell."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def unguard(text: str) -> str:
    """What `guard` was given."""
    return text[1:] if _GUARDED.match(text) else text
