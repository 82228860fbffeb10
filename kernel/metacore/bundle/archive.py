"""Reading tar.gz from anybody: every byte is counted while it is decompressed, nothing touches the disk.

An own reader of the tar format, since the standard one is made for trusted archives: it expands sparse members without
reading a byte, follows chains of extended headers by recursion and takes offsets as they come. This one knows ustar,
PAX and GNU long names, walks forward only, and refuses the rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from metacore.bundle import paths
from metacore.errors import BundleRefused

MAX_BYTES = 64 * 1024 * 1024
"""Decompressed bytes, headers and padding included."""
MAX_MEMBERS = 10_000
MAX_HEADER_BYTES = 64 * 1024
"""Of one extended header."""
BLOCK = 512
_CHUNK = 64 * 1024
_GZIP = b"\x1f\x8b"

_FILES = frozenset({b"0", b"\0", b"7"})
_FOLDER = b"5"
_SKIPPED = frozenset({b"1", b"2", b"3", b"4", b"6"})
"""Hard and symbolic links, devices, FIFOs."""
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    type: bytes
    size: int


def read_archive(content: bytes, *, limit: int = MAX_BYTES) -> dict[str, bytes]:
    """The regular files in a tar.gz by normalised path, in the order of the archive. Links and devices are skipped.

    Raises:
        BundleRefused: not a gzip or tar, cut off, followed by something else, larger than `limit` bytes when
            decompressed, too many members, a hostile name, or the same path twice.
    """
    stream = _Stream(content, limit)
    files: dict[str, bytes] = {}
    members = 0
    for member in _members(stream):
        members += 1
        if members > MAX_MEMBERS:
            raise BundleRefused(f"the bundle has more than {MAX_MEMBERS} entries", code="too_many_entries")
        path = paths.normal(member.name)
        if member.type in _SKIPPED or member.type == _FOLDER:
            stream.skip(_padded(member.size))
            continue
        if member.name.endswith("/") and not member.size:
            continue  # Before ustar, a slash at the end was what made a folder.
        if not path or member.name.endswith("/"):
            raise BundleRefused(f"the entry {member.name[:120]!r} is a file without a name", code="entry_name")
        if path in files:
            what = "two manifests" if path == paths.MANIFEST else f"{path[:120]!r} twice"
            raise BundleRefused(f"the bundle holds {what}", code="duplicate_entry")
        files[path] = stream.read(member.size)
        stream.skip(_padded(member.size) - member.size)
    stream.finish()
    _refuse_files_as_folders(files)
    return files


class _Stream:
    """Decompressed bytes, forward only, no more than `limit` of them."""

    def __init__(self, content: bytes, limit: int) -> None:
        if not content.startswith(_GZIP):
            raise BundleRefused("the bundle is not a gzip file", code="not_gzip")
        self._view = memoryview(content)
        self._position = 0
        self._inflate = zlib.decompressobj(wbits=31)
        self._waiting = b""
        self._offset = 0
        self._limit = limit
        self._left = limit

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        if size > self._left + len(self._waiting) - self._offset:
            raise self._too_large()
        parts: list[bytes] = []
        missing = size
        while missing:
            part = self._next(missing)
            if not part:
                raise BundleRefused("the bundle is cut off", code="truncated")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        while size > 0:
            part = self._next(min(size, _CHUNK))
            if not part:
                raise BundleRefused("the bundle is cut off", code="truncated")
            size -= len(part)

    def block(self) -> bytes:
        """The next block, b"" at the end."""
        first = self._next(BLOCK)
        return first if len(first) in (0, BLOCK) else first + self.read(BLOCK - len(first))

    def finish(self) -> None:
        """Read on to the end, which must be zeros: so the checksum of the gzip is tested and nothing hides there."""
        while part := self._next(_CHUNK):
            if part.strip(b"\0"):
                raise BundleRefused("the bundle goes on after the end of the archive", code="trailing_data")

    def _next(self, most: int) -> bytes:
        """At least one and at most `most` bytes; b"" at the end of a complete stream."""
        if self._offset == len(self._waiting):
            self._waiting, self._offset = self._decompress(), 0
        part = self._waiting[self._offset : self._offset + most]
        self._offset += len(part)
        return part

    def _decompress(self) -> bytes:
        while not self._inflate.eof:
            pending = self._inflate.unconsumed_tail
            if not pending:
                pending = bytes(self._view[self._position : self._position + _CHUNK])
                self._position += len(pending)
                if not pending:
                    raise BundleRefused("the bundle is cut off: its gzip stream has no end", code="truncated")
            try:
                # One byte beyond what is left tells a bundle of exactly that size from a larger one.
                made = self._inflate.decompress(pending, min(_CHUNK, self._left + 1))
            except zlib.error as error:
                raise BundleRefused(f"the bundle is not a readable gzip file: {error}", code="not_gzip") from None
            if made:
                self._left -= len(made)
                if self._left < 0:
                    raise self._too_large()
                return made
        if self._inflate.unused_data or self._position < len(self._view):
            raise BundleRefused("there is data after the end of the gzip stream", code="trailing_data")
        return b""

    def _too_large(self) -> BundleRefused:
        return BundleRefused(f"the bundle holds more than {self._limit} bytes when decompressed", code="too_large")


def _members(stream: _Stream) -> Iterator[_Member]:
    """The members one after the other; whoever takes one must read or skip its padded content."""
    name: str | None = None
    size: int | None = None
    started = False
    extended = 0
    while True:
        header = stream.block()
        if not header or not header.strip(b"\0"):
            if not started or name is not None or size is not None:
                raise BundleRefused("the bundle is no tar archive", code="not_tar")
            return
        _check_header(header)
        started = True
        kind, length = header[156:157], _number(header[124:136])
        if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            extended += 1
            if length > MAX_HEADER_BYTES or extended > 4:
                raise BundleRefused("the bundle has an extended header that is too long", code="not_tar")
            data = stream.read(length)
            stream.skip(_padded(length) - length)
            if kind == _LONG_NAME:
                name = _text(data.rstrip(b"\0"))
            elif kind == _PAX:
                records = _records(data)
                name = records.get("path", name)
                size = _pax_size(records, size)
            continue
        if kind not in _FILES and kind not in _SKIPPED and kind != _FOLDER:
            raise BundleRefused(f"the bundle has an entry of the unknown kind {kind!r}", code="entry_kind")
        # What a link or a folder says of its size is no content.
        own_size = (size if size is not None else length) if kind in _FILES else 0
        yield _Member(name if name is not None else _header_name(header), kind, own_size)
        name = size = None
        extended = 0


def _check_header(header: bytes) -> None:
    try:
        declared = int(header[148:156].rstrip(b" \0").strip() or b"0", 8)
    except ValueError:
        declared = -1
    if declared != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise BundleRefused("the bundle is no tar archive: a header does not match its checksum", code="not_tar")


def _number(field: bytes) -> int:
    """An octal number, or a big-endian one after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b" \0").strip()
    if digits and not all(48 <= digit <= 55 for digit in digits):
        raise BundleRefused("the bundle is no tar archive: a size is no number", code="not_tar")
    return int(digits or b"0", 8)


def _header_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BundleRefused(f"the entry name {data[:80]!r} is not UTF-8", code="entry_name") from None


def _records(data: bytes) -> dict[str, str]:
    """PAX records `<length> <key>=<value>\\n`; only path and size matter here, sparse files are refused."""
    found: dict[str, str] = {}
    position = 0
    while position < len(data) and data[position:].strip(b"\0"):
        space = data.find(b" ", position, position + 8)
        digits = data[position:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[space + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if length <= len(digits) + 2 or position + length > len(data) or record[-1:] != b"\n" or not equals:
            raise BundleRefused("the bundle has a broken extended header", code="not_tar")
        if key.startswith(b"GNU.sparse"):
            raise BundleRefused("the bundle has a sparse file", code="entry_kind")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        position += length
    return found


def _pax_size(records: dict[str, str], size: int | None) -> int | None:
    written = records.get("size")
    if written is None:
        return size
    if not written.isascii() or not written.isdigit() or len(written) > 20:
        raise BundleRefused("the bundle has a broken extended header", code="not_tar")
    return int(written)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _refuse_files_as_folders(files: dict[str, bytes]) -> None:
    for path in files:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in files:
                raise BundleRefused(
                    f"{'/'.join(parts[:end])[:120]!r} is both a file and a folder", code="duplicate_entry"
                )
