"""Reading a few rows of a model to choose from: where they are, which are the caller's, and what names them."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metacore.db import faults
from metacore.db.database import Database
from metacore.dynamic import statements, violations
from metacore.dynamic.export_formats import plain_text
from metacore.dynamic.filters import MAX_TERM
from metacore.dynamic.shape import TEXT_KINDS, ColumnShape, Kind, ModelShape
from metacore.errors import InvalidInput, Unavailable
from metacore.identity import Principal
from metacore.permissions.service import PermissionService

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_IDS = 100
"""Values whose labels can be asked for at once."""
MAX_OFFSET = 1_000_000
LABEL_NAMES = ("name", "title", "label", "code")
DESCRIPTION_NAMES = ("description",)
IMAGE_NAMES = ("image", "image_url", "avatar", "avatar_url", "photo", "logo")


@dataclass(frozen=True, slots=True)
class Display:
    """The columns that stand for a row: `label` names it; the others are '' where the model has none."""

    label: str
    description: str = ""
    image: str = ""
    icon: str = ""
    color: str = ""

    def columns(self) -> dict[str, str]:
        named = {
            "label": self.label,
            "description": self.description,
            "image": self.image,
            "icon": self.icon,
            "color": self.color,
        }
        return {part: column for part, column in named.items() if column}


def display_of(shape: ModelShape, label: str = "") -> Display:
    """How rows of the model are shown. `label` is the column that somebody asked for; without one the first of name,
    title, label and code that exists, else the first text, else the id."""
    readable = {column.name: column for column in shape.readable}

    def first(names: Iterable[str]) -> str:
        return next((name for name in names if name in readable), "")

    texts = [column.name for column in shape.readable if column.kind is Kind.STRING]
    texts += [column.name for column in shape.readable if column.kind is Kind.TEXT]
    chosen = first((label, *LABEL_NAMES, *texts, "id"))
    return Display(
        label=chosen,
        description=next((name for name in DESCRIPTION_NAMES if name in readable and name != chosen), ""),
        image=first(IMAGE_NAMES),
        icon=first(("icon",)),
        color=first(("color",)),
    )


def table_of(db: Database, shape: ModelShape, organization_id: uuid.UUID) -> sa.TableClause:
    """The table that holds this organization's rows, with typed columns."""
    return statements.table_of(shape, shape.model.schema_of(organization_id), db.dialect)


def scope_of(shape: ModelShape, table: sa.TableClause, organization_id: uuid.UUID) -> list[sa.ColumnElement[bool]]:
    """What holds for every row that the organization may see. Row-level security says the same on PostgreSQL."""
    mine = [table.c.organization_id == organization_id] if shape.scoped else []
    return [*mine, *statements.visible(shape, table.c)]


def contains(table: sa.TableClause, column: ColumnShape, term: str) -> sa.ColumnElement[bool]:
    """Whether the column's text holds `term`, whatever the case; wildcards in it are ordinary characters."""
    stored = table.c[column.name]
    text = stored if column.kind in TEXT_KINDS else sa.cast(stored, sa.Text)
    return text.ilike(statements.contains(term), escape=statements.ESCAPE)


def term_of(text: str) -> str:
    """A search term as it is used: without surrounding space, and cut where it is too long.

    Raises:
        InvalidInput: it holds a NUL character, which no database text can.
    """
    if "\x00" in text:
        raise InvalidInput("a search term cannot hold a NUL character", code="invalid_value")
    return text.strip()[:MAX_TERM]


def whole_number(text: str, what: str, default: int, least: int, most: int) -> int:
    """A number of the query string, clamped; '' means `default`. Raises InvalidInput for anything else."""
    if not text.strip():
        return default
    try:
        number = int(text)
    except ValueError:
        raise InvalidInput(f"{what} must be a whole number", code="invalid_value") from None
    return min(max(number, least), most)


@contextmanager
def reading() -> Iterator[None]:
    """Turns a database that is away, busy or being changed into `Unavailable`."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = error.driver_exception
        if isinstance(cause, violations.STALE_SHAPE):
            raise Unavailable("the model is being changed; try again", code="model_changing") from error
        if isinstance(cause, sqlite3.OperationalError):
            raise faults.busy() from error
        fault = faults.fault_of(error)
        if fault is None:
            raise
        raise fault from error
    except (OSError, sa.exc.TimeoutError) as error:
        raise faults.fault_of(error) or faults.unreachable() from error


async def fetch(
    db: Database, organization_id: uuid.UUID, statement: sa.Select[Any], values: Mapping[str, Any] | None = None
) -> list[sa.RowMapping]:
    """The rows of one statement, in the organization's scope. Raises Unavailable."""
    with reading():
        async with db.transaction(organization_id) as connection:
            return list((await connection.execute(statement, dict(values or {}))).mappings())


async def require_read(permissions: PermissionService | None, principal: Principal, shape: ModelShape) -> None:
    """Raises PermissionDenied when the caller may not read the model."""
    if permissions is not None:
        await permissions.require(principal, shape.capabilities["read"])


def row_of(found: sa.RowMapping) -> dict[str, Any]:
    """`{id, value, label, name, …}` of a row selected with these labels; optional parts when they say something."""
    label = plain_text(found["label"]) or plain_text(found["value"])
    shown = {"id": plain_text(found["id"]), "value": found["value"], "label": label, "name": label}
    for part in ("description", "image", "icon", "color"):
        if found.get(part) not in (None, ""):
            shown[part] = plain_text(found[part])
    return shown
