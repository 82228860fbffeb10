"""Declared sequences of a model: numbers for new rows, and for code that asks for the next one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from metacore.dynamic.rows import Rows, SequencePlace
from metacore.dynamic.shape import Kind, ModelShape
from metacore.errors import InvalidInput, NotFound
from metacore.manifest.model import Sequence

MAX_SCOPE: Final = 255
"""Characters of a scope's value that the table of sequences holds."""

_PLACEHOLDER = re.compile(r"\{seq(?::0?([1-9]\d?))?\}")


async def next_number(rows: Rows, shape: ModelShape, organization_id: uuid.UUID, key: str, scope: Any = None) -> str:
    """The next value of the sequence `key` as its format says. `scope` is the value of the column that it counts apart
    for, when it has one.

    Raises:
        NotFound: the model has no such sequence.
        InvalidInput: it needs a scope and there is none, or it is too long.
    """
    sequence = next((found for found in shape.model.definition.sequences if found.key == key), None)
    if sequence is None:
        raise NotFound(f"model {shape.model.key!r} has no sequence {key[:64]!r}", code="unknown_sequence")
    place = SequencePlace(shape.model.addon_key, shape.model.key, key, _scope(sequence, scope))
    return formatted(sequence.format, await rows.number(organization_id, place))


async def numbered(
    rows: Rows, shape: ModelShape, organization_id: uuid.UUID, columns: Mapping[str, Any]
) -> dict[str, Any]:
    """A number for each column of a new row that a sequence fills and `columns` leaves empty."""
    found: dict[str, Any] = {}
    if not shape.model.definition.sequences:
        return found
    by_key = {sequence.key: sequence for sequence in shape.model.definition.sequences}
    for column in shape.model.definition.columns:
        sequence = by_key.get(column.sequence)
        if sequence is not None and column.name in shape.columns and columns.get(column.name) in (None, ""):
            scope = columns.get(sequence.scope) if sequence.scope else None
            value = await next_number(rows, shape, organization_id, sequence.key, scope)
            found[column.name] = int(value) if shape.columns[column.name].kind is Kind.INT else value
    return found


def formatted(form: str, number: int) -> str:
    """`number` in a format such as `A-{seq:06}`."""
    return _PLACEHOLDER.sub(lambda found: str(number).zfill(int(found[1] or 0)), form, count=1)


def _scope(sequence: Sequence, value: Any) -> str:
    if not sequence.scope:
        return ""
    # A row without a value for the column is counted with the others that have none.
    text = "" if value is None else str(value)
    if len(text) > MAX_SCOPE:
        raise InvalidInput(f"{sequence.scope}: at most {MAX_SCOPE} characters to number by", code="invalid_scope")
    return text
