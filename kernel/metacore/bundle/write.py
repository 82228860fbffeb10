"""Writing bundles: the same files give the same bytes, whoever writes them and when."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from metacore.bundle import paths
from metacore.bundle.archive import BLOCK, MAX_BYTES, MAX_MEMBERS
from metacore.bundle.read import read_migrations
from metacore.errors import BundleRefused

MODE = 0o644
LEVEL = 9
LITTER = frozenset({".DS_Store", "Thumbs.db", ".gitkeep", ".gitignore", "__pycache__"})
"""Names that editors and version control leave behind; they are never packed."""


def write_bundle(files: Mapping[str, bytes]) -> bytes:
    """A bundle of `files` by path.

    Raises:
        BundleRefused: no manifest.json, a path that has no place in a bundle or is there twice, migrations that clash,
            or more than a reader would take.
    """
    entries: dict[str, bytes] = {}
    for name, data in files.items():
        path = paths.normal(name)
        paths.check_writable(path)
        if path in entries:
            raise BundleRefused(f"{path!r} is given twice", code="duplicate_entry")
        entries[path] = data
    if paths.MANIFEST not in entries:
        raise BundleRefused(f"a bundle needs a {paths.MANIFEST}", code="no_manifest")
    read_migrations(entries)
    _check_size(sum(len(data) for data in entries.values()), len(entries))
    packed = io.BytesIO()
    # An empty name and time 0 keep both out of the gzip header.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=packed, mtime=0) as compressed:
        compressed.write(_tar(entries))
    return packed.getvalue()


def pack_folder(folder: Path) -> bytes:
    """A bundle of what a folder holds. Raises as `collect_folder` and `write_bundle` do."""
    return write_bundle(collect_folder(folder))


def collect_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder that belong into a bundle, by path; everything else in it is left alone.

    Raises:
        BundleRefused: no such folder or no manifest in it, a link that leaves the folder or leads to a folder, a file
            that cannot be read, or more than a bundle may hold.
    """
    if not folder.is_dir():
        raise BundleRefused(f"{folder} is not a folder", code="no_folder")
    root = folder.resolve()
    files: dict[str, bytes] = {}
    total = 0
    for place in _places(folder):
        path = paths.normal(place.relative_to(folder).as_posix())
        paths.check_writable(path)
        total += _regular_size(place, path, root)
        _check_size(total, len(files) + 1)
        try:
            files[path] = place.read_bytes()
        except OSError as error:
            raise BundleRefused(f"{path} cannot be read: {error.strerror}", code="unreadable") from None
    if paths.MANIFEST not in files:
        raise BundleRefused(f"{folder} holds no {paths.MANIFEST}", code="no_manifest")
    return files


def _places(folder: Path) -> Iterator[Path]:
    for name in (paths.MANIFEST, paths.README):
        place = folder / name
        if place.is_symlink() or place.exists():
            yield place
    for prefix in (paths.MIGRATIONS, paths.FRONTEND, paths.BACKEND):
        top = folder / prefix.rstrip("/")
        if top.is_symlink():
            raise BundleRefused(f"{top.name} is a link to a folder; a bundle is packed from real ones", code="link")
        if not top.exists():
            continue
        if not top.is_dir():
            raise BundleRefused(f"{top.name} is a file, not a folder", code="entry_place")
        for where, folders, names in os.walk(top, onerror=_unreadable):
            folders[:] = sorted(name for name in folders if name not in LITTER)
            for name in folders:
                if (Path(where) / name).is_symlink():
                    relative = (Path(where) / name).relative_to(folder).as_posix()
                    raise BundleRefused(f"{relative} is a link to a folder; pack the files themselves", code="link")
            yield from (Path(where) / name for name in sorted(names) if name not in LITTER)


def _unreadable(error: OSError) -> None:
    raise BundleRefused(f"{error.filename} cannot be read: {error.strerror}", code="unreadable")


def _regular_size(place: Path, path: str, root: Path) -> int:
    try:
        target = place.resolve(strict=True)
        found = target.stat()
    except (OSError, RuntimeError):
        raise BundleRefused(f"{path} is a link that leads nowhere", code="link") from None
    if not target.is_relative_to(root):
        raise BundleRefused(f"{path} is a link that leaves the folder", code="link")
    if not stat.S_ISREG(found.st_mode):
        raise BundleRefused(f"{path} is not a regular file", code="entry_kind")
    return found.st_size


def _check_size(total: int, count: int) -> None:
    # Each entry costs a header, its padding and, with a long name, an extended header of its own.
    if total + count * 4 * BLOCK > MAX_BYTES:
        raise BundleRefused(f"a bundle holds at most {MAX_BYTES} bytes, this would be {total}", code="too_large")
    if count > MAX_MEMBERS:
        raise BundleRefused(f"a bundle holds at most {MAX_MEMBERS} files", code="too_many_entries")


def _tar(entries: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(entries, key=paths.order):
            member = tarfile.TarInfo(path)
            member.size = len(entries[path])
            member.mode = MODE
            member.mtime = 0
            archive.addfile(member, io.BytesIO(entries[path]))
    return written.getvalue()
