"""Adding capabilities to the manifest.json of an addon's source folder, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
    """Append `capabilities` to the list in the manifest at `path`. Order and indentation of the rest stay.

    Raises:
        InvalidInput: the file cannot be read or written, or would not be a valid manifest any more.
    """
    text = output.read_file(path, MAX_BYTES).decode("utf-8")
    document: dict[str, Any] = json.loads(text)
    document["capabilities"] = [*(document.get("capabilities") or []), *as_entries(capabilities)]
    indent = _INDENT.search(text)
    written = json.dumps(document, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"
    reading = inspect_manifest(written.encode())
    if reading.problems:
        raise InvalidInput(f"{path} would not be valid any more; nothing was written", problems=reading.problems)
    output.write_file(path, written.encode())
