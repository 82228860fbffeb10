"""Bundles and archives for tests: good ones by the writer, hostile ones by hand."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from tests.manifests import V2

FILES: Mapping[str, bytes] = {
    "manifest.json": json.dumps(V2).encode(),
    "migrations/0001_init.sql": b"CREATE TABLE notes (id uuid);",
    "migrations/0002_more.sql": b"ALTER TABLE notes ADD COLUMN body text;",
    "frontend/remoteEntry.js": b"export default 1",
    "frontend/assets/a.css": b"a{}",
    "backend/backend.wasm": b"\0asm\1\0\0\0",
    "README.md": "# Tickets é\n".encode(),
}

Entry = tuple[str, bytes] | tarfile.TarInfo


def archive(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these entries in this order: (name, content), or a ready header without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return packed.getvalue()


def tar_gz(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    return gzip.compress(archive(entries, format), mtime=0)


def header(name: str, type: bytes, **attributes: Any) -> tarfile.TarInfo:
    """A header of another kind than a regular file."""
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


MANIFEST: tuple[str, bytes] = ("manifest.json", FILES["manifest.json"])

# Signed bundles of a whole addon, for everybody who installs something.
from tests.tickets import TRUSTED as TRUSTED  # noqa: E402
from tests.tickets import make_bundle as make_bundle  # noqa: E402
from tests.tickets import signed as signed  # noqa: E402
from tests.tickets import tickets_manifest as tickets_manifest  # noqa: E402
