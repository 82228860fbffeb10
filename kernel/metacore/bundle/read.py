"""From the bytes of a bundle to what is in it. Nothing is written anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from metacore.bundle import paths
from metacore.bundle.archive import read_archive
from metacore.errors import BundleRefused
from metacore.manifest.model import Manifest
from metacore.manifest.read import parse_manifest
from metacore.manifest.translations import flatten


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """`version` is four digits ("0001"), `checksum` the hex SHA-256 of the file's bytes."""

    version: str
    name: str
    path: str
    sql: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """`digest` is the hex SHA-256 of the whole file. `files` and `checksums` are by path; migrations by version."""

    manifest: Manifest
    digest: str
    files: Mapping[str, bytes]
    checksums: Mapping[str, str]
    migrations: tuple[MigrationFile, ...]

    @property
    def frontend(self) -> dict[str, bytes]:
        """Frontend files by path below `frontend/`."""
        return _below(self.files, paths.FRONTEND)

    @property
    def backend(self) -> dict[str, bytes]:
        """Backend files by path below `backend/`."""
        return _below(self.files, paths.BACKEND)

    @property
    def wasm(self) -> bytes | None:
        """The module that `backend.entry` names, when the runtime is wasm and the bundle holds it."""
        backend = self.manifest.backend
        return self.files.get(backend.entry) if backend is not None and backend.runtime == "wasm" else None

    @property
    def readme(self) -> str | None:
        content = self.files.get(paths.README)
        return content.decode("utf-8", errors="replace") if content is not None else None


def digest_of(content: bytes) -> str:
    """Hex SHA-256, as signatures and the registry name bundles."""
    return hashlib.sha256(content).hexdigest()


def read_bundle(content: bytes) -> Bundle:
    """Read a bundle of at most 64 MiB decompressed. CPU-bound: off the event loop, please.

    Raises:
        BundleRefused: an archive that cannot be read safely, no manifest, a migration that cannot be one.
        ManifestInvalid: the manifest breaks the contract.
    """
    files = read_archive(content)
    if paths.MANIFEST not in files:
        nested = next((path for path in files if path.endswith("/" + paths.MANIFEST)), None)
        hint = f"; it must be at the top, not at {nested[:120]!r}" if nested is not None else ""
        raise BundleRefused(f"the bundle has no {paths.MANIFEST}{hint}", code="no_manifest")
    migrations = read_migrations(files)
    manifest = parse_manifest(files[paths.MANIFEST])
    return Bundle(
        manifest=_translated(manifest, files),
        digest=digest_of(content),
        files=files,
        checksums={path: digest_of(data) for path, data in files.items()},
        migrations=migrations,
    )


def read_migrations(files: Mapping[str, bytes]) -> tuple[MigrationFile, ...]:
    """The SQL migrations by version.

    Raises:
        BundleRefused: a name that is not NNNN_name.sql, a version twice, SQL that is not UTF-8.
    """
    found: dict[str, MigrationFile] = {}
    for path in sorted(files):
        if not path.startswith(paths.MIGRATIONS):
            continue
        paths.check_migration(path)
        version, name = paths.migration_of(path) or ("", "")
        if version in found:
            raise BundleRefused(
                f"migration version {version} exists twice: {found[version].path} and {path}", code="migration_version"
            )
        found[version] = MigrationFile(version, name, path, _sql(path, files[path]), digest_of(files[path]))
    return tuple(found[version] for version in sorted(found))


def _sql(path: str, data: bytes) -> str:
    try:
        sql = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BundleRefused(f"{path} is not UTF-8 at line {line}", code="migration_text") from None
    if "\0" in sql:
        raise BundleRefused(f"{path} holds a NUL character", code="migration_text")
    return sql


def _translated(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """The manifest with the translations of its files. One that is missing or broken leaves its words untranslated;
    `metacore bundle validate` names it."""
    if not manifest.i18n_files:
        return manifest
    messages = {locale: dict(known) for locale, known in manifest.i18n.items()}
    for locale, path in manifest.i18n_files:
        found = read_translations(files.get(path))
        if found is not None:
            messages.setdefault(locale, {}).update(found)
    return manifest.model_copy(update={"i18n": messages})


def read_translations(data: bytes | None) -> dict[str, str] | None:
    """A file of translations flattened, None when it is not a JSON object."""
    if data is None:
        return None
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return flatten(tree) if isinstance(tree, dict) else None


def _below(files: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {path[len(prefix) :]: data for path, data in files.items() if path.startswith(prefix)}
