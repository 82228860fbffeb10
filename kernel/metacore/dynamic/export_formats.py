"""Rows as CSV, JSON and XLSX. Everything here is plain CPU work: the caller runs it in a thread.

Times are RFC 3339 in UTC, decimals plain numbers, documents JSON text.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson
import xlsxwriter

from metacore.dynamic.spreadsheet_text import guard

XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "xlsx": XLSX_TYPE,
}

XLSX_MAX_ROWS = 1_048_575
"""Rows of a sheet below its header row: a limit of the format."""
XLSX_MAX_TEXT = 32_767
"""Characters of a cell: a limit of the format; longer text is cut there."""
EXACT_INTEGER = 2**53
"""Spreadsheets keep numbers as doubles: larger integers travel as text."""
FIRST_YEAR = 1900
"""Spreadsheets have no dates before it."""

Row = Sequence[Any]


class TextEncoder(Protocol):
    """A format that can be sent while rows are still being read."""

    def start(self) -> bytes: ...

    def rows(self, batch: Sequence[Row]) -> bytes: ...

    def end(self) -> bytes: ...


class CsvEncoder:
    """RFC 4180 with a header row of column names, UTF-8; texts that look like formulas are made harmless."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def start(self) -> bytes:
        return _csv([self._columns])

    def rows(self, batch: Sequence[Row]) -> bytes:
        return _csv([[text_of(value) for value in row] for row in batch])

    def end(self) -> bytes:
        return b""


class JsonEncoder:
    """An array of objects, one row a line."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._empty = True

    def start(self) -> bytes:
        return b"["

    def rows(self, batch: Sequence[Row]) -> bytes:
        parts = [json_of(dict(zip(self._columns, row, strict=True))) for row in batch]
        if not parts:
            return b""
        before = b"\n" if self._empty else b",\n"
        self._empty = False
        return before + b",\n".join(parts)

    def end(self) -> bytes:
        return b"]\n" if self._empty else b"\n]\n"


class XlsxFile:
    """A workbook with one sheet, written row by row to `path`; memory stays constant (XlsxWriter, constant_memory)."""

    def __init__(self, path: Path, columns: Sequence[str], *, title: str) -> None:
        self._book = xlsxwriter.Workbook(
            str(path),
            {
                "constant_memory": True,
                "strings_to_formulas": False,
                "strings_to_numbers": False,
                "strings_to_urls": False,
                "tmpdir": str(path.parent),
            },
        )
        self._sheet = self._book.add_worksheet(_sheet_title(title))
        self._instant = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._day = self._book.add_format({"num_format": "yyyy-mm-dd"})
        bold = self._book.add_format({"bold": True})
        self._next = 1
        for index, name in enumerate(columns):
            self._sheet.write_string(0, index, name, bold)

    def rows(self, batch: Sequence[Row]) -> None:
        for row in batch:
            for index, value in enumerate(row):
                self._write(self._next, index, value)
            self._next += 1

    def close(self) -> None:
        self._book.close()

    def _write(self, row: int, column: int, value: Any) -> None:
        sheet = self._sheet
        if value is None:
            return
        if isinstance(value, bool):
            sheet.write_boolean(row, column, value)
        elif isinstance(value, int | float | decimal.Decimal) and _exact(value):
            sheet.write_number(row, column, value)
        elif isinstance(value, datetime.datetime) and value.year >= FIRST_YEAR:
            sheet.write_datetime(row, column, _utc(value).replace(tzinfo=None), self._instant)
        elif isinstance(value, datetime.date) and value.year >= FIRST_YEAR:
            sheet.write_datetime(row, column, value, self._day)
        else:
            sheet.write_string(row, column, plain_text(value)[:XLSX_MAX_TEXT])


def text_of(value: Any) -> str:
    """One CSV cell. Only texts are guarded: a negative number is a number."""
    return guard(value) if isinstance(value, str) else plain_text(value)


def plain_text(value: Any) -> str:
    """`value` for people and for reading back: '' for null."""
    if value is None:
        return ""
    if isinstance(value, str):
        # Also without what a driver's subclass adds.
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal):
        return _number(value)
    if isinstance(value, datetime.datetime):
        return _utc(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json_of(value).decode()
    return str(value)


def json_of(value: Any) -> bytes:
    return orjson.dumps(
        value, default=_json_fallback, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
    )


def _json_fallback(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return orjson.Fragment(_number(value)) if value.is_finite() else None
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | uuid.UUID | str):
        return plain_text(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _number(value: decimal.Decimal) -> str:
    """Without exponent and without the zeros that only show the column's scale."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _utc(value: datetime.datetime) -> datetime.datetime:
    return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


def _exact(value: float | decimal.Decimal) -> bool:
    """Whether a spreadsheet can hold this number as it is."""
    if isinstance(value, int):
        return abs(value) <= EXACT_INTEGER
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return value.is_finite() and (value != value.to_integral_value() or abs(value) <= EXACT_INTEGER)


def _csv(rows: Sequence[Row]) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    return written.getvalue().encode()


def _sheet_title(title: str) -> str:
    """Spreadsheets refuse `[]:*?/\\` in the name of a sheet, more than 31 characters and an apostrophe at its ends."""
    kept = "".join(character for character in title if character not in "[]:*?/\\").strip("' ")
    return kept[:31].strip("' ") or "rows"
