"""Names of entries: what may be in a bundle, how a name is made unambiguous, in which order entries are written."""

from __future__ import annotations

import re

from metacore.errors import BundleRefused

MANIFEST = "manifest.json"
README = "README.md"
MIGRATIONS, FRONTEND, BACKEND = "migrations/", "frontend/", "backend/"
MAX_PATH_BYTES = 512
_DRIVE = re.compile(r"[A-Za-z]:")
_MIGRATION = re.compile(r"migrations/(?P<version>\d{4})_(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,100})\.sql")


def normal(name: str) -> str:
    """`name` without `./` and doubled slashes; '' for the root itself.

    Raises:
        BundleRefused: absolute, climbing out with `..`, with a backslash or a control character, or too long.
    """
    shown = f"{name[:120]!r}"
    if any(character < " " or character == "\x7f" for character in name):
        raise BundleRefused(f"the entry name {shown} holds a control character", code="entry_name")
    if "\\" in name:
        raise BundleRefused(f"the entry name {shown} holds a backslash", code="entry_name")
    if name.startswith("/") or _DRIVE.match(name):
        raise BundleRefused(f"the entry {shown} has an absolute path", code="entry_name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BundleRefused(f"the entry {shown} climbs out of the bundle with '..'", code="entry_name")
    path = "/".join(parts)
    try:
        length = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise BundleRefused(f"the entry name {shown} is not UTF-8", code="entry_name") from None
    if length > MAX_PATH_BYTES:
        raise BundleRefused(f"the entry name {shown} is longer than {MAX_PATH_BYTES} bytes", code="entry_name")
    return path


def migration_of(path: str) -> tuple[str, str] | None:
    """Version and name of a migration's path, None when it is not one."""
    found = _MIGRATION.fullmatch(path)
    return (found["version"], found["name"]) if found is not None else None


def check_writable(path: str) -> None:
    """Whether a bundle may be written with this entry.

    Raises:
        BundleRefused: the path is not one that contract 9 lists.
    """
    if path in (MANIFEST, README) or path.startswith((FRONTEND, BACKEND)):
        return
    if path.startswith(MIGRATIONS):
        check_migration(path)
        return
    raise BundleRefused(
        f"{path!r} has no place in a bundle: it holds manifest.json, migrations/, frontend/, backend/ and README.md",
        code="entry_place",
    )


def check_migration(path: str) -> None:
    if migration_of(path) is None:
        raise BundleRefused(
            f"{path!r} is not named like a migration: migrations/NNNN_name.sql, such as migrations/0001_init.sql",
            code="migration_name",
        )


def order(path: str) -> tuple[int, str]:
    """Sort key of the fixed order: manifest, migrations by version, frontend, backend, README."""
    if path == MANIFEST:
        return 0, ""
    for rank, prefix in enumerate((MIGRATIONS, FRONTEND, BACKEND), start=1):
        if path.startswith(prefix):
            return rank, path
    return 4, path
