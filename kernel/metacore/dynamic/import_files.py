"""Files that people import, read into rows: CSV, JSON and XLSX. Pure CPU work, bounded in every direction.

A spreadsheet is a zip archive of XML: before it is opened, its entries, its unpacked size and the extent of its cells
are checked, because the reader allocates the whole rectangle from the first cell to the last. Of JSON the values are
counted before it is parsed: `{},` are three bytes of a file and a hundred of memory.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import python_calamine

from metacore.dynamic.spreadsheet_text import unguard
from metacore.errors import InvalidInput, PayloadTooLarge

DELIMITERS = ",;\t|"
ZIP_MAGIC = b"PK\x03\x04"
CHUNK = 1 << 20
MAX_CELLS = 2_000_000
"""Of the rectangle that a sheet spans; the reader takes about 32 bytes for each."""
MAX_VALUES = 1_000_000
"""That a file may hold; each takes about a hundred bytes of memory, twice."""
MAX_RECORD = 1_048_576
"""Characters of one line of CSV with all that its quotes span, as many as bodies of single rows may have bytes."""
MAX_ENTRIES = 1_000
"""Of the archive that a workbook is: one for each sheet, picture and table, and a dozen more."""
_ENTRY_MAGIC = b"PK\x01\x02"
_JSON_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[,\[{]', re.DOTALL)
"""A string, to its end or that of the file, or what stands in front of a value."""
_REFERENCE = re.compile(rb"""\br\s*=\s*["']\s*([A-Za-z]{0,4})([0-9]{1,9})""")
_BARE_CELL = re.compile(rb"<(?:\w+:)?c\b(?![^<>]*\br\s*=)[^<>]*>")
_LONGEST_TAG = 4096
"""Bytes carried over between chunks, so that a tag on their border is seen."""


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """`max_bytes` bounds the file, `max_json_bytes` one that is JSON, which must be parsed as a whole; `max_unpacked`
    bounds what a spreadsheet unpacks to: its reader takes up to three times that."""

    max_rows: int = 10_000
    max_columns: int = 512
    max_bytes: int = 67_108_864
    max_json_bytes: int = 8_388_608
    max_unpacked: int = 67_108_864


@dataclass(frozen=True, slots=True)
class ImportRow:
    """`number` counts data rows from 1. `problem` says why the row cannot be read, and is '' otherwise."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImportTable:
    """`headers` in the order of the file. `typed` tells that a text in a cell was meant as one, as in JSON; in CSV and
    in sheets people write everything as text."""

    headers: tuple[str, ...]
    rows: tuple[ImportRow, ...]
    typed: bool = False


def read_table(content: bytes, filename: str, limits: ImportLimits) -> ImportTable:
    """Read a file by what it contains, or where that does not tell by the ending of its name.

    Raises:
        InvalidInput: a file that cannot be read, has no header, or no rows.
        PayloadTooLarge: more bytes, rows or columns than `limits` allow, or too many values.
    """
    if len(content) > limits.max_bytes:
        raise PayloadTooLarge(f"the file is larger than {limits.max_bytes} bytes")
    if content.startswith(ZIP_MAGIC):
        table = _read_xlsx(content, limits)
    elif filename.lower().endswith(".xlsx"):
        raise InvalidInput("the file is not an XLSX workbook", code="invalid_file")
    elif filename.lower().endswith(".json") or content.lstrip()[:1] in (b"[", b"{"):
        table = read_objects(_json(content, limits), limits)
    else:
        table = _read_csv(content, limits)
    if not table.rows:
        raise InvalidInput("the file has no rows", code="empty_file")
    return table


def read_objects(document: Any, limits: ImportLimits) -> ImportTable:
    """An array of objects, or `{"data": [...]}`, as a table.

    Raises:
        InvalidInput: any other shape.
        PayloadTooLarge: more rows or columns than allowed.
    """
    items = document.get("data") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise InvalidInput('expected an array of objects, or {"data": [...]}', code="invalid_json")
    _check_rows(len(items), limits)
    headers: dict[str, None] = {}
    rows = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            headers.update(dict.fromkeys(item))
            _check_columns(len(headers), limits)
            rows.append(ImportRow(number, item))
        else:
            rows.append(ImportRow(number, problem="expected an object"))
    if rows and not headers and any(row.problem for row in rows):
        raise InvalidInput("none of the rows is an object with values", code="invalid_json")
    return ImportTable(tuple(headers), tuple(rows), typed=True)


def _json(content: bytes, limits: ImportLimits) -> Any:
    if len(content) > limits.max_json_bytes:
        raise PayloadTooLarge(
            f"a JSON file may have {limits.max_json_bytes} bytes; import it in parts, or as CSV or XLSX"
        )
    _check_json_values(content)
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the file is not JSON: {error}", code="invalid_file") from None


def _check_json_values(content: bytes) -> None:
    """Each value but the outermost follows a comma or opens a list or an object."""
    if sum(map(content.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return
    # Texts hold such bytes, too.
    values = 0
    for match in _JSON_MARK.finditer(content):
        if content[match.start()] != ord('"'):
            values += 1
            _check_values(values)


def _read_csv(content: bytes, limits: ImportLimits) -> ImportTable:
    # Read piece by piece: as one text it would be up to four times its size.
    lines = _Lines(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
    try:
        delimiter = max(DELIMITERS, key=lines.first().count)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        return _table(_unguarded(reader, lines), limits)
    except UnicodeDecodeError:
        raise InvalidInput(f"the file is not UTF-8 (below line {lines.number})", code="invalid_file") from None
    except csv.Error as error:
        raise InvalidInput(f"the file is not CSV: line {lines.number}: {error}", code="invalid_file") from None


class _Lines:
    """Lines of a file for the CSV reader, which makes one record of several when quotes span them. `number` is of the
    last one that was read."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._kept: str | None = None
        self._record = 0
        self.number = 0

    def first(self) -> str:
        """The first line, which is read again afterwards."""
        self._kept = self._text.readline(MAX_RECORD + 1)
        return self._kept

    def next_record(self) -> None:
        self._record = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._kept if self._kept is not None else self._text.readline(MAX_RECORD + 1)
        self._kept = None
        if not line:
            raise StopIteration
        self.number += 1
        self._record += len(line)
        if self._record > MAX_RECORD:
            raise PayloadTooLarge(f"line {self.number} is part of a row of more than {MAX_RECORD} characters")
        return line


def _unguarded(records: Iterable[list[str]], lines: _Lines) -> Iterable[list[str]]:
    for record in records:
        lines.next_record()
        yield [unguard(cell) for cell in record]


def _read_xlsx(content: bytes, limits: ImportLimits) -> ImportTable:
    _check_workbook(content, limits)
    try:
        with python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
            if not book.sheet_names:
                raise InvalidInput("the workbook has no sheet", code="invalid_file")
            sheet = book.get_sheet_by_index(0)
            return _table(sheet.iter_rows(), limits)
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise InvalidInput(f"the workbook cannot be read: {error}", code="invalid_file") from None


def _check_workbook(content: bytes, limits: ImportLimits) -> None:
    """Refuse a bomb before anything unpacks it: sizes are measured, not believed."""
    # What the end of the archive says of their number, the reader does not go by; each entry has this magic number.
    if content.count(_ENTRY_MAGIC) > MAX_ENTRIES:
        raise PayloadTooLarge(f"the workbook has more than {MAX_ENTRIES} parts")
    left = limits.max_unpacked
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist())
            if "xl/workbook.xml" not in names or "xl/workbook.bin" in names or "content.xml" in names:
                raise InvalidInput("the archive is not an XLSX workbook", code="invalid_file")
            for entry in archive.infolist():
                extent = _Extent() if entry.filename.lower().startswith("xl/worksheets/") else None
                with archive.open(entry) as unpacked:
                    while chunk := unpacked.read(CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise PayloadTooLarge(f"the workbook unpacks to more than {limits.max_unpacked} bytes")
                        if extent is not None:
                            extent.feed(chunk)
                if extent is not None:
                    extent.check(limits)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        # zipfile raises NotImplementedError for a compression, and RuntimeError for an encryption, that it cannot undo.
        raise InvalidInput(f"the workbook cannot be read: {error}", code="invalid_file") from None


class _Extent:
    """How far the cells of a sheet reach. A cell without a reference of its own stands in the row that encloses it, so
    as soon as there is one, the references of rows count too."""

    def __init__(self) -> None:
        self._tail = b""
        self._cell_row = self._cell_column = self._row = 0
        self._bare = False

    def feed(self, chunk: bytes) -> None:
        seen = self._tail + chunk
        for match in _REFERENCE.finditer(seen):
            letters, number = match.group(1), int(match.group(2))
            if letters:
                self._cell_row = max(self._cell_row, number)
                self._cell_column = max(self._cell_column, _column_number(letters))
            else:
                self._row = max(self._row, number)
        self._bare = self._bare or _BARE_CELL.search(seen) is not None
        self._tail = seen[-_LONGEST_TAG:]

    def check(self, limits: ImportLimits) -> None:
        last_row = max(self._cell_row, self._row if self._bare else 0)
        # One row more than data, for the header.
        _check_rows(last_row - 1, limits)
        _check_columns(self._cell_column, limits)
        if last_row * self._cell_column > MAX_CELLS:
            raise PayloadTooLarge(f"the sheet spans more than {MAX_CELLS} cells; import it in parts")


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def _table(lines: Iterable[Sequence[Any]], limits: ImportLimits) -> ImportTable:
    """The first line that is not blank is the header; blank lines below it count but are passed over."""
    headers: list[str] | None = None
    rows: list[ImportRow] = []
    number = above = filled = 0
    for line in lines:
        if headers is None:
            if any(not _blank(cell) for cell in line):
                headers = _headers(line, limits)
            above += 1
            _check_rows(above - 1, limits)
            continue
        number += 1
        _check_rows(number, limits)
        if any(not _blank(cell) for cell in line):
            rows.append(_row(number, headers, line))
            filled += len(rows[-1].values)
            _check_values(filled)
    if headers is None:
        raise InvalidInput("the file has no header row", code="empty_file")
    return ImportTable(tuple(name for name in headers if name), tuple(rows))


def _headers(line: Sequence[Any], limits: ImportLimits) -> list[str]:
    headers = [str(cell).strip() if not _blank(cell) else "" for cell in line]
    while headers and not headers[-1]:
        headers.pop()
    _check_columns(len(headers), limits)
    seen: set[str] = set()
    for name in headers:
        if name and name in seen:
            raise InvalidInput(f"the header {name[:64]!r} stands twice", code="duplicate_header")
        seen.add(name)
    return headers


def _row(number: int, headers: Sequence[str], line: Sequence[Any]) -> ImportRow:
    if any(not _blank(cell) for cell in line[len(headers) :]):
        return ImportRow(number, problem=f"more cells ({len(line)}) than headers ({len(headers)})")
    return ImportRow(
        number, {name: cell for name, cell in zip(headers, line, strict=False) if name and not _blank(cell)}
    )


def _blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _check_rows(count: int, limits: ImportLimits) -> None:
    if count > limits.max_rows:
        raise PayloadTooLarge(f"the file has more than {limits.max_rows} rows; import it in parts")


def _check_columns(count: int, limits: ImportLimits) -> None:
    if count > limits.max_columns:
        raise PayloadTooLarge(f"the file has more than {limits.max_columns} columns")


def _check_values(count: int) -> None:
    if count > MAX_VALUES:
        raise PayloadTooLarge(f"the file has more than {MAX_VALUES} values; import it in parts")
