"""Adding capabilities to the manifest.json of an addon's source folder, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metacore.bundle import paths
from metacore.cli import output
from metacore.errors import InvalidInput
from metacore.manifest.decode import MAX_BYTES
from metacore.manifest.model import Capability
from metacore.manifest.read import inspect_manifest

_INDENT = re.compile(r"^([ \t]+)\"", re.MULTILINE)


def manifest_in(path: Path) -> Path:
    """`path` itself, or the manifest.json in it."""
    return path / paths.MANIFEST if path.is_dir() else path


def declared_in(path: Path, addon_key: str) -> tuple[Capability, ...]:
    """The capabilities that the manifest at `path` asks for.

    Raises:
        InvalidInput: it cannot be read, is wrong, or is another addon's.
    """
    reading = inspect_manifest(output.read_file(path, MAX_BYTES))
    if reading.manifest is None or reading.problems:
        raise InvalidInput(f"{path} is not a valid manifest", problems=reading.problems)
    if reading.manifest.key != addon_key:
        raise InvalidInput(
            f"{path} is the manifest of {reading.manifest.key!r}, not of {addon_key!r}", code="wrong_key"
        )
    return reading.manifest.capabilities


def as_entries(capabilities: Sequence[Capability]) -> list[dict[str, str]]:
    """As they stand in a manifest."""
    return [{"kind": item.kind, "target": item.target, "reason": item.reason} for item in capabilities]


def add_capabilities(path: Path, capabilities: Sequence[Capability]) -> None:
    """Append `capabilities` to the list in the manifest at `path`; every other character of it stays.

    Raises:
        InvalidInput: the file cannot be read or written, or would not be a valid manifest any more.
    """
    text = output.read_file(path, MAX_BYTES).decode("utf-8")
    document: dict[str, Any] = json.loads(text)
    entries = as_entries(capabilities)
    document["capabilities"] = [*(document.get("capabilities") or []), *entries]
    written = insert(text, entries)
    if json.loads(written) != document:
        raise InvalidInput(f"{path} has a form that cannot be edited in place: add them by hand", code="manifest_form")
    reading = inspect_manifest(written.encode())
    if reading.problems:
        raise InvalidInput(f"{path} would not be valid any more; nothing was written", problems=reading.problems)
    output.write_file(path, written.encode())


def insert(text: str, entries: Sequence[dict[str, str]]) -> str:
    """The JSON object `text` with `entries` at the end of its list `capabilities`, in the style of what is there."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    found = next(((start, end) for name, start, end in _members(text) if name == "capabilities"), None)
    indent = _INDENT.search(text)
    step = indent[1] if indent is not None else ""
    if found is None:
        at = max((end for _, _, end in _members(text)), default=text.index("{") + 1)
        comma = "," if text[at - 1] != "{" else ""
        space = f"\n{step}" if step else " "
        return f'{text[:at]}{comma}{space}"capabilities": {_list(lines, step)}{text[at:]}'
    start, end = found
    inner = text[start + 1 : end - 1]
    if text[start] != "[" or not inner.strip():
        return text[:start] + _list(lines, step) + text[end:]
    before = inner[: len(inner) - len(inner.lstrip())]
    separator = f",{before}" if "\n" in before else ", "
    last = start + 1 + len(inner.rstrip())
    return text[:last] + separator + separator.join(lines) + text[last:]


def _list(lines: Sequence[str], step: str) -> str:
    if not step:
        return "[" + ", ".join(lines) + "]"
    return "[" + ",".join(f"\n{step}{step}{line}" for line in lines) + f"\n{step}]"


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of the value of each member of the object that `text` is."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        at = _skip(text, at, ",")
        if text[at] == "}":
            return
        name, at = decoder.raw_decode(text, at)
        start = _skip(text, at, ":")
        _, at = decoder.raw_decode(text, start)
        yield name, start, at


def _skip(text: str, at: int, mark: str) -> int:
    while text[at] in f" \t\r\n{mark}":
        at += 1
    return at
