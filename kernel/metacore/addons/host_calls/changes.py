"""A mutation as a guest writes it, read and checked before anything happens. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from metacore.dynamic.shape import KERNEL_COLUMNS, ModelShape, shape_of
from metacore.errors import InvalidInput, Refused
from metacore.ids import parse_uuid
from metacore.registry import LiveModel

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200

Operation = Literal["create", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One mutation. `own` tells whether the model is the guest's own, `returning` which columns it wants back: None
    for all of them, none at all when it is empty."""

    model: LiveModel
    own: bool
    operation: Operation
    row_id: uuid.UUID | None
    values: Mapping[str, Any]
    increments: Mapping[str, Any]
    returning: tuple[str, ...] | None

    def answer(self, row_id: uuid.UUID, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.returning == ():
            return {"id": str(row_id)}
        shown = row if self.returning is None else {name: row[name] for name in self.returning if name in row}
        return {"id": str(row_id), "row": dict(shown)}


def read_change(model: LiveModel, mutation: Mapping[str, Any], *, own: bool) -> Change:
    """`{op, id?, data?, inc?, returning?}` on a row of `model`.

    Raises:
        InvalidInput: it is malformed, or names a column that the model does not have.
        Refused: it sets a column that is the kernel's own, computed, or not the guest's to set.
    """
    operation = mutation.get("op")
    if operation not in ("create", "update", "delete"):
        raise InvalidInput("op must be create, update or delete")
    shape = shape_of(model)
    values, increments = _object(mutation, "data"), _object(mutation, "inc")
    row_id = None
    if operation == "create":
        if increments:
            raise InvalidInput("inc is for update; a new row has nothing to add to")
    else:
        row_id = parse_uuid(words(mutation, "id"))
    if operation == "delete" and (values or increments):
        raise InvalidInput("delete takes neither data nor inc")
    if operation == "update" and not values and not increments:
        raise InvalidInput("update needs data or inc")
    if both := sorted(values.keys() & increments.keys()):
        raise InvalidInput(f"{both[0]} stands in data and in inc")
    for name in (*values, *increments):
        _check_column(shape, name, own=own)
    return Change(model, own, operation, row_id, values, increments, _returning(shape, mutation.get("returning")))


def read_limit(limit: Any) -> int:
    """The `limit` of a query: 50 when none is given, at most 200.

    Raises:
        InvalidInput: no whole number from 1 on.
    """
    if limit is None:
        return DEFAULT_LIMIT
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput("limit must be a whole number from 1 on")
    return min(limit, MAX_LIMIT)


def words(request: Mapping[str, Any], name: str) -> str:
    """The text under `name`.

    Raises:
        InvalidInput: there is none.
    """
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} is required, as a text")
    return value


def _object(mutation: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = mutation.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must be an object")
    return value


def _check_column(shape: ModelShape, name: str, *, own: bool) -> None:
    if name in KERNEL_COLUMNS:
        raise Refused(f"column {name!r} is the kernel's own", code="reserved_column")
    if name not in shape.columns:
        raise InvalidInput(f"model {shape.model.key!r} has no column {name[:64]!r}", code="unknown_column")
    if name not in (shape.settable if own else shape.accepted):
        raise Refused(f"column {name!r} cannot be set: it is computed or read-only", code="reserved_column")


def _returning(shape: ModelShape, wanted: Any) -> tuple[str, ...] | None:
    if wanted is None or wanted is True:
        return None
    if wanted is False:
        return ()
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise InvalidInput("returning must be true, false or an array of columns")
    for name in wanted:
        if name not in shape.readable_names:
            raise InvalidInput(
                f"model {shape.model.key!r} has no column {name[:64]!r} to return", code="unknown_column"
            )
    return tuple(wanted)
