"""Everything that is wrong with an addon, in one list: manifest, archive, migrations, files that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metacore.bundle import paths
from metacore.bundle.archive import MAX_BYTES, read_archive
from metacore.bundle.read import read_migrations
from metacore.bundle.references import missing_files
from metacore.bundle.write import collect_folder
from metacore.cli import output
from metacore.errors import MetacoreError, Problem
from metacore.installer.sql_migrations import judge
from metacore.installer.sql_names import Names
from metacore.manifest.compatibility import check_kernel
from metacore.manifest.decode import MAX_BYTES as MAX_MANIFEST_BYTES
from metacore.manifest.model import Manifest
from metacore.manifest.read import inspect_manifest
from metacore.metadata.derive import derive_modal, derive_table


@dataclass(slots=True)
class Examination:
    """`manifest` is None when it could not be read. `files` is None for a manifest alone."""

    manifest: Manifest | None = None
    files: Mapping[str, bytes] | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "key": self.manifest.key if self.manifest is not None else None,
            "version": self.manifest.version if self.manifest is not None else None,
            "problems": [problem.as_json() for problem in self.problems],
            "warnings": [problem.as_json() for problem in self.warnings],
        }

    def blame(self, where: str, error: MetacoreError) -> None:
        """Take over what `error` says; `where` stands in where it names no place."""
        self.problems.extend(error.problems or [Problem(where, error.code, error.message)])


def examine(path: Path) -> Examination:
    """Examine a folder, a manifest.json or a bundle. Raises nothing for what is wrong inside.

    Raises:
        InvalidInput: the path itself cannot be read.
    """
    if path.is_dir():
        return _examine_files(lambda: collect_folder(path), path)
    if path.suffix == ".json":
        found = Examination()
        _examine_manifest(found, output.read_file(path, MAX_MANIFEST_BYTES))
        return found
    content = output.read_file(path, MAX_BYTES)
    return _examine_files(lambda: read_archive(content), path)


def _examine_files(read: Any, path: Path) -> Examination:
    found = Examination()
    try:
        files: dict[str, bytes] = read()
    except MetacoreError as error:
        found.blame(str(path), error)
        return found
    found.files = files
    if paths.MANIFEST in files:
        _examine_manifest(found, files[paths.MANIFEST])
    else:
        found.problems.append(Problem(paths.MANIFEST, "no_manifest", "is missing"))
    if found.manifest is not None:
        found.problems.extend(missing_files(found.manifest, files))
    for name in files:
        try:
            paths.check_writable(name)
        except MetacoreError as error:
            if name.startswith(paths.MIGRATIONS):
                found.blame(name, error)
            else:
                found.warnings.append(Problem(name, error.code, "has no place in a bundle and is not used"))
    try:
        judge(read_migrations(files), Names())
    except MetacoreError as error:
        if error.code != "migration_name":
            found.blame(paths.MIGRATIONS, error)
    return found


def _examine_manifest(found: Examination, data: bytes) -> None:
    reading = inspect_manifest(data)
    found.manifest = reading.manifest
    found.problems.extend(reading.problems)
    found.warnings.extend(reading.warnings)
    if reading.manifest is None:
        return
    try:
        check_kernel(reading.manifest)
    except MetacoreError as error:
        found.blame("manifest", error)
    for model in reading.manifest.models:
        for derive in (derive_table, derive_modal):
            try:
                derive(model, reading.manifest.actions)
            except MetacoreError as error:
                found.blame("manifest", error)
