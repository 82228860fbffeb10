"""Reading files that people import, and refusing those that would hurt."""

from __future__ import annotations

import datetime
import io
import json
import struct
import zipfile
from typing import Any

import orjson
import pytest
import xlsxwriter

from metacore.dynamic import import_files
from metacore.dynamic.import_files import ImportLimits, read_objects, read_table
from metacore.errors import InvalidInput, MetacoreError, PayloadTooLarge

LIMITS = ImportLimits(max_rows=5, max_columns=4, max_bytes=100_000, max_unpacked=2_000_000)
ROWS = '<row r="1"><c r="A1" t="inlineStr"><is><t>title</t></is></c></row>'


def csv_rows(text: str, **more: Any) -> list[dict[str, Any]]:
    return [row.values for row in read_table(text.encode(), "x.csv", LIMITS).rows]


def workbook(*lines: list[Any]) -> bytes:
    written = io.BytesIO()
    book = xlsxwriter.Workbook(written, {"in_memory": True, "default_date_format": "yyyy-mm-dd hh:mm"})
    sheet = book.add_worksheet()
    for number, line in enumerate(lines):
        for index, cell in enumerate(line):
            sheet.write(number, index, cell)
    book.close()
    return written.getvalue()


def altered(sheet: str) -> bytes:
    """A workbook whose sheet holds exactly this XML in `sheetData`."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook(["a"]))) as source, zipfile.ZipFile(made, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "xl/worksheets/sheet1.xml":
                content = (
                    '<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
                    f"<sheetData>{sheet}</sheetData></worksheet>"
                ).encode()
            target.writestr(entry.filename, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def refusal(content: bytes, name: str = "x.csv", limits: ImportLimits = LIMITS) -> MetacoreError:
    with pytest.raises(MetacoreError) as caught:
        read_table(content, name, limits)
    return caught.value


def test_csv_with_a_byte_order_mark_blank_lines_and_quotes() -> None:
    table = read_table('\ufefftitle,note\r\n"a,b",\r\n\r\n"c\nd",x\r\n'.encode(), "x.csv", LIMITS)
    assert table.headers == ("title", "note")
    assert [(row.number, row.values) for row in table.rows] == [
        (1, {"title": "a,b"}),
        (3, {"title": "c\nd", "note": "x"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_the_header_uses(delimiter: str) -> None:
    assert csv_rows(f"a{delimiter}b\n1{delimiter}2\n") == [{"a": "1", "b": "2"}]


def test_what_the_export_guarded_is_what_was_stored() -> None:
    assert csv_rows("a\n'=1+1\n'plain'\n") == [{"a": "=1+1"}, {"a": "'plain'"}]


def test_a_row_with_more_cells_than_headers_is_a_problem_of_that_row() -> None:
    table = read_table(b"a,b\n1,2,3\n4,5,\n", "x.csv", LIMITS)
    assert [row.problem for row in table.rows] == ["more cells (3) than headers (2)", ""]


def test_json_arrays_and_wrapped_ones() -> None:
    for document in (b' [{"a": 1}, {"b": null}, 7]', b'{"data": [{"a": 1}, {"b": null}, 7]}'):
        table = read_table(document, "upload", LIMITS)
        assert table.headers == ("a", "b")
        assert [(row.values, row.problem) for row in table.rows] == [
            ({"a": 1}, ""),
            ({"b": None}, ""),
            ({}, "expected an object"),
        ]


def test_a_workbook_gives_typed_cells() -> None:
    day = datetime.datetime(2026, 3, 1, 12, 30)  # noqa: DTZ001 - spreadsheets know no zones.
    content = workbook(["title", "count", "done", "when"], ["x", 2.5, True, day], ["y", 3])
    table = read_table(content, "x.xlsx", LIMITS)
    assert table.typed is False
    assert [row.values for row in table.rows] == [
        {"title": "x", "count": 2.5, "done": True, "when": day},
        {"title": "y", "count": 3.0},
    ]


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "x.csv", "no header"),
        (b"\n\n", "x.csv", "no header"),
        (b"a,b\n", "x.csv", "no rows"),
        (b"a,a\n1,2\n", "x.csv", "stands twice"),
        (b"a\n\xff\xfe\n", "x.csv", "not UTF-8"),
        (b'a\n"open\n', "x.csv", "not CSV: line"),
        (b"[", "x.json", "not JSON"),
        (b"{}", "x.json", "array of objects"),
        (b'{"data": 3}', "x.json", "array of objects"),
        (b"[" * 5000, "x.json", "not JSON"),
        (b"[]", "x.json", "no rows"),
        (b"PK\x03\x04 nonsense", "x.xlsx", "cannot be read"),
        (b"not a workbook", "x.xlsx", "not an XLSX"),
        (workbook(["a"])[:-30], "x.xlsx", "cannot be read"),
        (altered("<row><c><v>"), "x.xlsx", "cannot be read|no header"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, name: str, reason: str) -> None:
    error = refusal(content, name)
    assert isinstance(error, InvalidInput)
    with pytest.raises(InvalidInput, match=reason):
        raise error


def test_an_archive_that_is_no_workbook_is_refused() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("content.xml", "<x/>")
        archive.writestr("xl/workbook.xml", "<x/>")
    assert "not an XLSX" in str(refusal(made.getvalue()))


@pytest.mark.parametrize(
    "content",
    [
        b"a\n" + b"1\n" * 6,
        b"a,b,c,d,e\n1,2,3,4,5\n",
        b"a\n" + b"x" * 100_000,
        b'[{"a":1},{},{},{},{},{}]',
        workbook(["a"], *[["1"]] * 6),
        altered(ROWS + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'),
        altered(ROWS + "<row r='1048576'><c  r = 'A1048576'><v>1</v></c></row>"),
        altered(ROWS + '<row r="1048576"><c><v>1</v></c></row>'),
        altered(ROWS + '<row r="2"><c r="ZZ2"><v>1</v></c></row>'),
        altered(ROWS + " " * 2_000_000),
    ],
    ids=["rows", "columns", "bytes", "json", "sheet", "sparse", "quotes", "bare", "wide", "bomb"],
)
def test_a_file_that_is_too_large_in_any_direction_is_refused(content: bytes) -> None:
    assert isinstance(refusal(content, "upload"), PayloadTooLarge)


def parsing_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(content: bytes) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(orjson, "loads", loads)


MANY = import_files.MAX_VALUES + 1


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"{}," * MANY + b"{}]",
        b'[{"a":' + b"[" * MANY,
        b'{"data":[{"a":[' + b"1," * MANY + b"1]}]}",
        b'[{"' + b'\\\\":"\\",{{{",' + b"0," * MANY,
        b"[" + b"0," * MANY + b'"' + b'\\"' * 2_000_000,
    ],
    ids=["objects", "lists", "numbers", "quotes", "open"],
)
def test_json_of_too_many_values_is_refused_before_it_is_parsed(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsing_never_begins(monkeypatch)
    error = refusal(content, "x.json", ImportLimits())
    assert isinstance(error, PayloadTooLarge)
    assert "1000000 values" in error.message


def test_json_that_is_too_large_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsing_never_begins(monkeypatch)
    error = refusal(b'[{"a":"' + b"x" * 8_388_608 + b'"}]', "x.json", ImportLimits())
    assert isinstance(error, PayloadTooLarge)
    assert "8388608 bytes" in error.message


@pytest.mark.parametrize("ending", ['"', ',"', r"\"", r"\\", r"[\\\""])
def test_texts_of_json_may_hold_whatever_they_like(ending: str) -> None:
    texts = [{"a": "{[," * 200_000 + ending, 'b"': 1}, {"a": '"' * 500_000}, {"a": ",{[" * 200_000}]
    table = read_table(json.dumps(texts).encode(), "x.json", ImportLimits())
    assert [row.values for row in table.rows] == texts


def test_a_string_that_never_ends_is_counted_in_one_pass() -> None:
    # Were each quote tried anew up to the end of the file, this would take days.
    content = b'["' + rb"\"" * 3_600_000 + b"," * MANY
    assert isinstance(refusal(content, "x.json", ImportLimits()), InvalidInput)


def test_objects_of_many_different_keys_are_too_many_columns() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 4 columns"):
        read_objects([{"a": 1, "b": 2}, {"c": 3, "d": 4, "e": 5}], LIMITS)


def test_a_row_of_csv_is_bounded_also_when_quotes_span_lines() -> None:
    record = import_files.MAX_RECORD
    for content in (
        b"a," * record,
        b"a\n" + b"1," * record,
        b"a\n" + b'"x\n",' * (record // 5 + 1),
        b"a\n" + b"\r" * 99 + b"," * (record + 1),
    ):
        error = refusal(content, "x.csv", ImportLimits())
        assert isinstance(error, PayloadTooLarge)
        assert f"more than {record} characters" in error.message
    assert len(csv_rows("a\n" + "x" * 99_000)) == 1


def test_lines_above_the_header_are_counted() -> None:
    assert csv_rows("\n" * 5 + "a\n1\n") == [{"a": "1"}]
    assert isinstance(refusal(b"\n" * 90_000 + b"a\n1\n"), PayloadTooLarge)


def test_values_of_csv_are_counted() -> None:
    header = ",".join(f"c{n}" for n in range(512))
    content = (header + "\n" + ("1," * 511 + "1\n") * (import_files.MAX_VALUES // 512 + 1)).encode()
    error = refusal(content, "x.csv", ImportLimits())
    assert isinstance(error, PayloadTooLarge)
    assert "1000000 values" in error.message


def test_bad_bytes_are_told_with_the_lines_above_them() -> None:
    content = b"a\n" + b"x\n" * 4 + b"\xff\n"
    assert "below line" in refusal(content).message


@pytest.mark.parametrize("told", [1, 65_535])
def test_a_workbook_of_many_parts_is_refused_before_they_are_listed(told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(import_files.MAX_ENTRIES + 1):
            archive.writestr(f"{number}", b"")
    content = bytearray(made.getvalue())
    # The end record holds their number, on this disk and in all; readers go by the size of the directory.
    content[-14:-10] = struct.pack("<HH", told, told)

    def listed(*_: Any) -> None:
        raise AssertionError("it was listed")

    monkeypatch.setattr(zipfile, "ZipFile", listed)
    error = refusal(bytes(content), "x.xlsx", ImportLimits())
    assert isinstance(error, PayloadTooLarge)
    assert "1000 parts" in error.message


def test_a_reference_on_the_border_of_two_chunks_is_seen() -> None:
    padding = " " * (1_048_576 - 200)
    for shift in range(0, 400, 7):
        content = altered(padding + " " * shift + '<row r="2"><c r="XFD1048576"><v>1</v></c></row>')
        assert isinstance(refusal(content, "upload"), PayloadTooLarge)


def test_a_sheet_with_formatted_empty_rows_at_its_end_is_fine() -> None:
    content = altered(ROWS + '<row r="2"><c r="A2"><v>1</v></c></row><row r="1048576" ht="3"/>')
    assert [row.values for row in read_table(content, "x.xlsx", LIMITS).rows] == [{"title": 1.0}]


def test_objects_of_a_body_obey_the_same_limits() -> None:
    with pytest.raises(PayloadTooLarge):
        read_objects([{}] * 6, LIMITS)
    with pytest.raises(InvalidInput):
        read_objects("text", LIMITS)
