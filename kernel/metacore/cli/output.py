"""What the command says: results on stdout, everything else on stderr, in plain lines that also read well in a log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metacore.errors import InstallFailed, InvalidInput, ManifestInvalid, MetacoreError, Problem

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that would move a terminal's cursor or turn its text around; names in a bundle are anybody's."""


def clean(text: str) -> str:
    """`text` without control characters other than tab and newline."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str = "") -> None:
    """A line of the result."""
    print(clean(text))


def note(text: str) -> None:
    """A line that is not part of the result."""
    print(clean(text), file=sys.stderr, flush=True)


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_error(error: MetacoreError) -> None:
    """The message on one line, and every problem below it when there are several or the message leaves them out."""
    where = f" (step {error.step})" if isinstance(error, InstallFailed) else ""
    problems = error.problems
    if len(problems) > 1 or (problems and problems[0].message not in error.message):
        # A manifest's message only repeats the first of its problems.
        head = f"{len(problems)} problems" if isinstance(error, ManifestInvalid) else error.message
        show_failure(head + where)
        show_problems(problems)
    else:
        show_failure(error.message + where)


def show_failure(message: str) -> None:
    note(f"{paint('error', '31;1', sys.stderr)}: {message}")


def show_problems(problems: Iterable[Problem]) -> None:
    for problem in problems:
        note(f"  {problem.field}: {problem.message}" if problem.field else f"  {problem.message}")


def paint(text: str, code: str, stream: Any = None) -> str:
    """`text` in a colour where a person looks at it; NO_COLOR and pipes keep it plain."""
    target = stream if stream is not None else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not target.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def show_rows(rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Rows of text in columns."""
    if not rows:
        return
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        say((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a file.

    Raises:
        InvalidInput: it cannot be read or is larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", code="file") from None
    if len(content) > limit:
        raise InvalidInput(f"{path} is larger than {limit} bytes", code="file")
    return content


def write_file(path: Path, content: bytes) -> None:
    """Write a file as a whole: who reads it meanwhile finds the old one or the new one.

    Raises:
        InvalidInput: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InvalidInput(f"{path} cannot be written: {error.strerror}", code="file") from None
