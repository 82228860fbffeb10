"""Rows as CSV, JSON and XLSX."""

from __future__ import annotations

import csv
import datetime
import io
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from metacore.dynamic.export_formats import XLSX_MAX_TEXT, CsvEncoder, JsonEncoder, XlsxFile
from metacore.dynamic.spreadsheet_text import guard, unguard

MOMENT = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
IDENTITY = uuid.UUID("6f1c2b9e-4c3d-4a8e-9f50-1234567890ab")


def as_csv(*rows: list[Any], columns: tuple[str, ...] = ("a",)) -> str:
    encoder = CsvEncoder(columns)
    return (encoder.start() + encoder.rows(rows) + encoder.end()).decode()


def as_json(*batches: list[list[Any]], columns: tuple[str, ...] = ("a",)) -> bytes:
    encoder = JsonEncoder(columns)
    return encoder.start() + b"".join(encoder.rows(batch) for batch in batches) + encoder.end()


def as_sheet(tmp_path: Path, *rows: list[Any], title: str = "Tickets") -> list[list[Any]]:
    path = tmp_path / "out.xlsx"
    book = XlsxFile(path, ["a", "b"], title=title)
    book.rows(rows)
    book.close()
    with CalamineWorkbook.from_path(str(path)) as read:
        return read.get_sheet_by_index(0).to_python()


def test_csv_has_a_header_and_writes_every_type_plainly() -> None:
    row = [
        None,
        True,
        -5,
        Decimal("-12.5000"),
        Decimal("1E+3"),
        MOMENT,
        MOMENT.date(),
        IDENTITY,
        {"a": [1]},
        'say "hi"\n',
    ]
    columns = tuple("abcdefghij")
    assert list(csv.reader(io.StringIO(as_csv(row, columns=columns), newline=""))) == [
        list(columns),
        [
            "",
            "true",
            "-5",
            "-12.5",
            "1000",
            "2026-03-01T10:30:00Z",
            "2026-03-01",
            str(IDENTITY),
            '{"a":[1]}',
            'say "hi"\n',
        ],
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x"])
def test_a_text_that_a_spreadsheet_would_run_is_made_harmless(text: str) -> None:
    assert guard(text) == f"'{text}"
    assert unguard(guard(text)) == text


@pytest.mark.parametrize("text", ["", "plain", "a=1", "'quoted'", " =1", "1-1"])
def test_other_text_is_left_alone(text: str) -> None:
    assert guard(text) == text
    assert unguard(text) == text


@given(st.text(alphabet="'=+-@\t\r ab"))
def test_guarding_is_undone_exactly(text: str) -> None:
    assert unguard(guard(text)) == text


def test_only_texts_are_guarded_in_csv() -> None:
    assert as_csv([-5], [Decimal("-1.5")], ["-5"]).splitlines() == ["a", "-5", "-1.5", "'-5"]


def test_json_is_one_array_over_all_batches() -> None:
    document = as_json([[1], [2]], [], [[3]])
    assert json.loads(document) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert json.loads(as_json()) == []


def test_json_numbers_are_exact_and_times_are_utc() -> None:
    row = [Decimal("123456789012345678.1234"), MOMENT, IDENTITY, {"k": None}, Decimal("NaN")]
    text = as_json([row], columns=tuple("abcde")).decode()
    assert "123456789012345678.1234" in text
    assert json.loads(text, parse_float=str) == [
        {
            "a": "123456789012345678.1234",
            "b": "2026-03-01T10:30:00Z",
            "c": str(IDENTITY),
            "d": {"k": None},
            "e": None,
        }
    ]


def test_a_sheet_has_typed_cells_and_no_formulas(tmp_path: Path) -> None:
    rows = as_sheet(
        tmp_path,
        ["=1+1", True],
        [Decimal("12.5"), MOMENT],
        [None, MOMENT.date()],
        [2**60, {"a": 1}],
        [datetime.date(1800, 1, 1), "http://example.com"],
    )
    assert rows == [
        ["a", "b"],
        ["=1+1", True],
        [12.5, datetime.datetime(2026, 3, 1, 10, 30)],  # noqa: DTZ001 - spreadsheets know no zones.
        ["", datetime.date(2026, 3, 1)],
        [str(2**60), '{"a":1}'],
        ["1800-01-01", "http://example.com"],
    ]


def test_text_beyond_a_cells_limit_is_cut_instead_of_lost(tmp_path: Path) -> None:
    assert as_sheet(tmp_path, ["x" * 40_000, ""])[1][0] == "x" * XLSX_MAX_TEXT


@pytest.mark.parametrize("title", ["a/b:[c]*?\\", "x" * 80, "'quoted'", "", "'" * 9])
def test_any_title_makes_a_sheet(tmp_path: Path, title: str) -> None:
    assert as_sheet(tmp_path, title=title) == [["a", "b"]]
