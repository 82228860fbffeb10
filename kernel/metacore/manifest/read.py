"""The door to this room: bytes or an object in, a checked `Manifest` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metacore.errors import ManifestInvalid, Problem
from metacore.manifest.decode import decode
from metacore.manifest.model import Manifest
from metacore.manifest.v2 import read_v2
from metacore.manifest.v3 import API_VERSION, read_v3
from metacore.manifest.walk import ROOT, Node, Report, shown


@dataclass(frozen=True, slots=True)
class Reading:
    """`manifest` is None when there are problems. `warnings` name keys that nobody reads and the like."""

    manifest: Manifest | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def parse_manifest(data: bytes | Mapping[str, Any]) -> Manifest:
    """The manifest in `data`: UTF-8 JSON, or the JSON object itself.

    Raises:
        ManifestInvalid: it breaks the contract; `problems` holds every breach with its JSON path.
    """
    manifest, report = _read(data)
    report.raise_problems()
    return manifest


def inspect_manifest(data: bytes | Mapping[str, Any]) -> Reading:
    """The same without raising, and with warnings: for people who write manifests."""
    try:
        manifest, report = _read(data)
    except ManifestInvalid as error:
        return Reading(None, error.problems, ())
    return Reading(None if report.problems else manifest, tuple(report.problems), tuple(report.warnings))


def _read(data: bytes | Mapping[str, Any]) -> tuple[Manifest, Report]:
    value = decode(data)
    report = Report()
    root = Node(value, ROOT, report)
    version = value.get("apiVersion")
    if version is None:
        if "metadata" in value and "key" not in value:
            root.refuse("apiVersion", f"is required in a manifest of version 3: {shown(API_VERSION)}", "required")
            report.raise_problems()
        return read_v2(root), report
    if version == API_VERSION:
        return read_v3(root), report
    message = f"{shown(version)} is not served: leave it out for v2, or write {API_VERSION}"
    raise ManifestInvalid(
        f"{ROOT}.apiVersion: {message}", problems=[Problem(f"{ROOT}.apiVersion", "api_version", message)]
    )
