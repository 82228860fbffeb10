"""Keyset cursors: the sort value and id of the last row of a page, as an opaque word.

A cursor is not signed: it can only say where to go on, within the caller's own rows, and each of its parts is read as
strictly as a filter is. What it must fit is checked: the model, the sort column and the direction.
"""

from __future__ import annotations

import binascii
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import orjson

from metacore.dynamic.shape import ColumnShape, ModelShape
from metacore.dynamic.values import BadValue, read_text, text_of
from metacore.errors import InvalidInput

VERSION = 1
MAX_LENGTH = 8_192


@dataclass(frozen=True, slots=True)
class Cursor:
    """Rows after (`value`, `row_id`) in the order of the query; `value` is None where the row had none."""

    value: Any
    row_id: uuid.UUID


def encode(shape: ModelShape, column: ColumnShape, descending: bool, value: Any, row_id: uuid.UUID) -> str:
    content = [
        VERSION,
        shape.model.key,
        column.name,
        int(descending),
        None if value is None else text_of(value),
        str(row_id),
    ]
    return urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def decode(shape: ModelShape, column: ColumnShape, descending: bool, text: str) -> Cursor:
    """The place that `text` tells of.

    Raises:
        InvalidInput: not a cursor, or one of another model or order.
    """
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        content = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        version, model, name, direction, value, row_id = content
        if version != VERSION or not isinstance(row_id, str) or not (value is None or isinstance(value, str)):
            raise ValueError("unknown shape")
        position = Cursor(None if value is None else read_text(column, value), uuid.UUID(row_id))
    except (ValueError, TypeError, binascii.Error, BadValue) as error:
        raise InvalidInput("cursor: not a cursor of this list", code="invalid_cursor") from error
    if (model, name, direction) != (shape.model.key, column.name, int(descending)):
        raise InvalidInput("cursor: it belongs to another model or order", code="invalid_cursor")
    return position
