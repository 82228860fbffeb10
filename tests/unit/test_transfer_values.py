"""Which header is which column, and what a cell means to it."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from metacore.dynamic.import_values import match_headers, values_of
from metacore.manifest.model import Column, ColumnType, Formula, ModelDefinition, Option
from metacore.metadata.derive import derive_modal, derive_table

DEFINITION = ModelDefinition(
    key="tickets",
    table="tickets",
    columns=(
        Column(name="title", type=ColumnType.STRING, label="Subject"),
        Column(
            name="status",
            type=ColumnType.STRING,
            options=(
                Option(value="open", label="Open now"),
                Option(value="done", label="Closed"),
                Option(value="closed", label="Archived"),
            ),
        ),
        Column(name="total", type=ColumnType.DECIMAL),
        Column(name="number", type=ColumnType.STRING, sequence="ticket"),
        Column(name="token", type=ColumnType.STRING, widget="password"),
    ),
    formulas=(Formula(target="total", expr="1"),),
    modal_metadata={"fields": [{"key": "title", "label": "What happened"}]},
)


def matched(*headers: str, definition: ModelDefinition = DEFINITION) -> tuple[dict[str, str], tuple[str, ...]]:
    found = match_headers(headers, definition, derive_table(definition), derive_modal(definition))
    return {header: target.column.name for header, target in found.targets.items()}, found.ignored


def value(cell: Any, kind: ColumnType, *, typed: bool = False) -> Any:
    definition = ModelDefinition(key="t", table="t", columns=(Column(name="x", type=kind),))
    headers = match_headers(["x"], definition, derive_table(definition), derive_modal(definition))
    return values_of({"x": cell}, headers, typed=typed)["x"]


def test_headers_match_by_key_or_by_any_label() -> None:
    for header in ("title", " TITLE ", "Subject", "what  happened"):
        assert matched(header) == ({header: "title"}, ())
    assert matched("token", "Status") == ({"token": "token", "Status": "status"}, ())


def test_a_key_wins_over_another_columns_label() -> None:
    definition = ModelDefinition(
        key="t",
        table="t",
        columns=(
            Column(name="a", type=ColumnType.STRING, label="b"),
            Column(name="b", type=ColumnType.STRING),
        ),
    )
    assert matched("b", definition=definition) == ({"b": "b"}, ())


def test_headers_of_what_cannot_be_filled_are_ignored_and_told() -> None:
    assert matched("title", "id", "total", "number", "nonsense") == (
        {"title": "title"},
        ("id", "total", "number", "nonsense"),
    )


def test_a_second_header_for_the_same_column_is_ignored() -> None:
    assert matched("title", "Subject") == ({"title": "title"}, ("Subject",))


@pytest.mark.parametrize(
    ("cell", "stored"),
    [("open", "open"), ("Open now", "open"), (" OPEN NOW ", "open"), ("closed", "closed"), ("Archived", "closed")],
)
def test_an_option_may_be_written_by_its_label(cell: str, stored: str) -> None:
    headers = match_headers(["status"], DEFINITION, derive_table(DEFINITION), derive_modal(DEFINITION))
    assert values_of({"status": cell}, headers, typed=False) == {"status": stored}


@pytest.mark.parametrize(
    ("cell", "kind", "stored"),
    [
        ("5", ColumnType.INT, 5),
        (" -5 ", ColumnType.BIGINT, -5),
        ("5.50", ColumnType.DECIMAL, Decimal("5.50")),
        ("five", ColumnType.INT, "five"),
        ("NaN", ColumnType.DECIMAL, "NaN"),
        ("1e999999999", ColumnType.INT, "1e999999999"),
        ("Yes", ColumnType.BOOL, True),
        ("0", ColumnType.BOOL, False),
        ("perhaps", ColumnType.BOOL, "perhaps"),
        ('{"a": 1}', ColumnType.JSONB, {"a": 1}),
        ("not json", ColumnType.JSONB, "not json"),
        ("007", ColumnType.STRING, "007"),
        (" spaced ", ColumnType.TEXT, " spaced "),
        (" 2026-01-02 ", ColumnType.DATE, "2026-01-02"),
    ],
)
def test_cells_of_csv_are_read_as_the_columns_type(cell: str, kind: ColumnType, stored: Any) -> None:
    assert value(cell, kind) == stored


@pytest.mark.parametrize(
    ("cell", "kind", "stored"),
    [
        (5.0, ColumnType.INT, 5),
        (5.5, ColumnType.INT, 5.5),
        (7.0, ColumnType.STRING, "7"),
        (1.0, ColumnType.BOOL, True),
        (True, ColumnType.BOOL, True),
        ("5", ColumnType.INT, 5),
        ("5", ColumnType.STRING, "5"),
        (datetime.date(2026, 1, 2), ColumnType.DATE, "2026-01-02"),
        (datetime.datetime(2026, 1, 2), ColumnType.DATE, "2026-01-02"),  # noqa: DTZ001
        (datetime.date(2026, 1, 2), ColumnType.TIMESTAMP, "2026-01-02T00:00:00Z"),
        (datetime.datetime(2026, 1, 2, 3, 4), ColumnType.TIMESTAMP, "2026-01-02T03:04:00Z"),  # noqa: DTZ001
        (datetime.time(3, 4), ColumnType.STRING, "03:04:00"),
        (None, ColumnType.STRING, None),
        ({"a": 1}, ColumnType.JSONB, {"a": 1}),
    ],
)
def test_typed_cells_are_turned_to_the_columns_type(cell: Any, kind: ColumnType, stored: Any) -> None:
    assert value(cell, kind, typed=True) == stored


def test_a_document_in_a_sheet_is_text_but_a_text_in_json_is_a_document() -> None:
    assert value('{"a": 1}', ColumnType.JSONB) == {"a": 1}
    assert value('{"a": 1}', ColumnType.JSONB, typed=True) == '{"a": 1}'
