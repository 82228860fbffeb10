"""From the cells of an imported file to the values of a create: which header is which column, and what a cell means."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from metacore.dynamic.export_formats import plain_text
from metacore.manifest.model import Column, ColumnType, ModelDefinition
from metacore.metadata.facts import facts_of
from metacore.metadata.model import ModalMetadata, TableMetadata

TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0"})
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?", re.ASCII)
NUMBERS = frozenset({ColumnType.INT, ColumnType.BIGINT, ColumnType.DECIMAL})


@dataclass(frozen=True, slots=True)
class Target:
    """One column that a file may fill. `choices` maps what people read (lower case) to the value that is stored."""

    column: Column
    choices: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Headers:
    """`targets` by the file's header; `ignored` are headers that name no column to be filled."""

    targets: Mapping[str, Target]
    ignored: tuple[str, ...]


def importable_columns(definition: ModelDefinition) -> list[Column]:
    """The columns that a person may fill: not what the kernel or the database computes or numbers."""
    computed = {formula.target for formula in definition.formulas}
    computed |= {rollup.target for relation in definition.relations for rollup in relation.rollups}
    return [
        column
        for column in definition.columns
        if not (column.generated or column.readonly or column.sequence or column.name in computed)
    ]


def match_headers(
    headers: Sequence[str], definition: ModelDefinition, table: TableMetadata, modal: ModalMetadata
) -> Headers:
    """Find each header's column: by key, else by a label of the form, the table or the column; case does not matter."""
    targets = {column.name: _target(definition, column) for column in importable_columns(definition)}
    by_label: dict[str, str] = {}
    for key, label in (
        *((field.key, field.label) for field in modal.fields),
        *((cell.key, cell.label) for cell in table.columns),
        *((name, _label(definition, name)) for name in targets),
    ):
        if key in targets and label:
            by_label.setdefault(_folded(label), key)
    names = {_folded(name): name for name in targets}
    found: dict[str, Target] = {}
    ignored: list[str] = []
    taken: set[str] = set()
    for header in headers:
        name = names.get(_folded(header)) or by_label.get(_folded(header))
        if name is None or name in taken:
            ignored.append(header)
        else:
            taken.add(name)
            found[header] = targets[name]
    return Headers(found, tuple(ignored))


def values_of(cells: Mapping[str, Any], headers: Headers, *, typed: bool) -> dict[str, Any]:
    """The input of a create. What cannot be read as the column's type stays as it is: validation names the problem.

    `typed` tells that a text was meant as one (JSON): then only numbers and truth values are read out of texts.
    """
    return {
        target.column.name: _value(cells[header], target, typed=typed)
        for header, target in headers.targets.items()
        if header in cells
    }


def _target(definition: ModelDefinition, column: Column) -> Target:
    facts = facts_of(definition, column.name)
    options = facts.options if facts is not None else ()
    values = {str(option.value).casefold() for option in options}
    choices = {
        option.label.casefold(): option.value
        for option in reversed(options)
        # A label that is also another option's value means that value.
        if option.label.casefold() not in values
    }
    return Target(column, choices)


def _label(definition: ModelDefinition, name: str) -> str:
    facts = facts_of(definition, name)
    return facts.label if facts is not None else ""


def _folded(header: str) -> str:
    return " ".join(header.casefold().split())


def _value(cell: Any, target: Target, *, typed: bool) -> Any:
    kind = target.column.type
    if isinstance(cell, str):
        chosen = target.choices.get(cell.strip().casefold())
        if chosen is not None:
            return chosen
        return cell if typed and kind not in NUMBERS and kind is not ColumnType.BOOL else _from_text(cell, kind)
    if isinstance(cell, datetime.datetime | datetime.date):
        return _from_date(cell, kind)
    if isinstance(cell, datetime.time | datetime.timedelta):
        return str(cell)
    if isinstance(cell, float) and cell.is_integer() and kind is not ColumnType.DECIMAL:
        cell = int(cell)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return _from_number(cell, kind)
    return cell


def _from_text(cell: str, kind: ColumnType) -> Any:
    if kind in (ColumnType.STRING, ColumnType.TEXT):
        return cell
    stripped = cell.strip()
    if kind is ColumnType.BOOL:
        word = stripped.casefold()
        return True if word in TRUE_WORDS else False if word in FALSE_WORDS else cell
    if kind in NUMBERS:
        return _number(stripped, cell)
    if kind is ColumnType.JSONB:
        try:
            return orjson.loads(stripped)
        except orjson.JSONDecodeError:
            return cell
    return stripped


def _number(text: str, cell: str) -> Any:
    if _NUMBER.fullmatch(text) is None:
        return cell
    number = decimal.Decimal(text)
    return int(number) if number == number.to_integral_value() else number


def _from_number(cell: float, kind: ColumnType) -> Any:
    """Spreadsheets type a cell by its look: a code of digits comes as a number."""
    if kind in (ColumnType.STRING, ColumnType.TEXT):
        return plain_text(cell)
    if kind is ColumnType.BOOL and cell in (0, 1):
        return bool(cell)
    return cell


def _from_date(cell: datetime.date, kind: ColumnType) -> str:
    if kind is ColumnType.DATE and isinstance(cell, datetime.datetime):
        return cell.date().isoformat()
    if kind is ColumnType.TIMESTAMP and not isinstance(cell, datetime.datetime):
        cell = datetime.datetime(cell.year, cell.month, cell.day, tzinfo=datetime.UTC)
    return plain_text(cell)
