"""What this room needs to know about a live model, worked out once: typed columns, and who may read and set them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metacore.db.catalog import StoredColumn
from metacore.errors import Misconfigured
from metacore.events.canonical import Verb, event_type
from metacore.manifest.model import Column
from metacore.registry import LiveModel

KERNEL_COLUMNS = frozenset({"id", "organization_id", "created_by_id", "created_at", "updated_at", "deleted_at"})
"""Columns that only the kernel writes; a caller's values for them are ignored."""

MAX_SHAPES = 4096
MAX_STATEMENTS = 512
"""Compiled statements kept per model. Callers choose the combination of filters, so it must be bounded."""


class Kind(StrEnum):
    """How a column's values are read, compared and shown. `OTHER` is any type that the contract has no word for."""

    STRING = "string"
    TEXT = "text"
    UUID = "uuid"
    INT = "int"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOL = "bool"
    INSTANT = "instant"
    """A timestamp with time zone."""
    CLOCK = "clock"
    """A timestamp without time zone: taken as UTC."""
    DATE = "date"
    JSON = "json"
    OTHER = "other"


KINDS: Mapping[str, Kind] = {
    "character varying": Kind.STRING,
    "varchar": Kind.STRING,
    "character": Kind.STRING,
    "text": Kind.TEXT,
    "uuid": Kind.UUID,
    "smallint": Kind.INT,
    "integer": Kind.INT,
    "bigint": Kind.INT,
    "numeric": Kind.DECIMAL,
    "decimal": Kind.DECIMAL,
    "real": Kind.FLOAT,
    "float": Kind.FLOAT,
    "double precision": Kind.FLOAT,
    "boolean": Kind.BOOL,
    "timestamp with time zone": Kind.INSTANT,
    "timestamp without time zone": Kind.CLOCK,
    "timestamp": Kind.INSTANT,
    "datetime": Kind.INSTANT,
    "date": Kind.DATE,
    "jsonb": Kind.JSON,
    "json": Kind.JSON,
}
"""By PostgreSQL's spelling, and the spellings that SQLAlchemy gives the same types on SQLite."""

INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
TEXT_KINDS = frozenset({Kind.STRING, Kind.TEXT})
TIME_KINDS = frozenset({Kind.INSTANT, Kind.CLOCK})
UNORDERED_KINDS = frozenset({Kind.JSON, Kind.OTHER})

_PARENTHESES = re.compile(r"\s*\(([\d,\s]*)\)")


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """One stored column. `size` counts characters, `precision` and `scale` a decimal's digits, `bits` an integer's."""

    name: str
    kind: Kind
    stored: StoredColumn
    declared: Column | None
    size: int | None = None
    precision: int | None = None
    scale: int | None = None
    bits: int = 64

    @property
    def secret(self) -> bool:
        return self.declared is not None and self.declared.secret

    @property
    def generated(self) -> bool:
        return self.stored.generated or (self.declared is not None and bool(self.declared.generated))

    @property
    def ordered(self) -> bool:
        return self.kind not in UNORDERED_KINDS


@dataclass(slots=True, eq=False)
class ModelShape:
    """A live model as statements and validation see it.

    `readable` are the columns that a caller may see, sort and filter by; `assignable` those that a save may set at
    all, `settable` those that code of the model's addon may set, `accepted` those that a caller may set. `scoped`
    tells whether rows carry an organization, `hides_deleted` whether rows can be marked as deleted, `soft_delete`
    whether deleting marks them.
    """

    model: LiveModel
    columns: Mapping[str, ColumnShape]
    readable: tuple[ColumnShape, ...]
    assignable: frozenset[str]
    settable: frozenset[str]
    accepted: frozenset[str]
    search: tuple[ColumnShape, ...]
    scoped: bool
    hides_deleted: bool
    soft_delete: bool
    capabilities: Mapping[str, str]
    events: Mapping[Verb, str]
    readable_names: frozenset[str]
    kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def recall(self, key: Hashable) -> Any:
        """What was kept under `key`, or None."""
        value = self.kept.get(key)
        if value is not None:
            self.kept.move_to_end(key)
        return value

    def remember(self, key: Hashable, value: Any) -> Any:
        """Keep `value` (a compiled statement, a parsed rule) for as long as this shape of the model is in use."""
        self.kept[key] = value
        if len(self.kept) > MAX_STATEMENTS:
            self.kept.popitem(last=False)
        return value


_shapes: OrderedDict[int, ModelShape] = OrderedDict()


def shape_of(model: LiveModel) -> ModelShape:
    """The shape of `model`, computed once per object: the registry never changes one, it replaces it.

    Raises:
        Misconfigured: the table has no `id` of type uuid.
    """
    shape = _shapes.get(id(model))
    # A shape holds its model, so an id in the cache cannot belong to another object.
    if shape is None:
        shape = _shapes[id(model)] = _derive(model)
        if len(_shapes) > MAX_SHAPES:
            _shapes.popitem(last=False)
    return shape


def kind_of(stored_type: str) -> Kind:
    """The kind of a type as PostgreSQL, or SQLAlchemy on SQLite, spells it."""
    spelled = stored_type.strip().lower()
    if spelled == "char(32)":
        # Only SQLite says so, and only for SQLAlchemy's Uuid; PostgreSQL writes `character(32)`.
        return Kind.UUID
    return KINDS.get(_PARENTHESES.sub("", spelled), Kind.OTHER)


def _column(stored: StoredColumn, declared: Column | None) -> ColumnShape:
    kind = kind_of(stored.type)
    found = _PARENTHESES.search(stored.type)
    numbers = [int(part) for part in found[1].split(",") if part.strip()] if found else []
    base = _PARENTHESES.sub("", stored.type.strip().lower())
    return ColumnShape(
        name=stored.name,
        kind=kind,
        stored=stored,
        declared=declared,
        size=numbers[0] if kind is Kind.STRING and numbers else None,
        precision=numbers[0] if kind is Kind.DECIMAL and numbers else None,
        scale=(numbers[1] if len(numbers) > 1 else 0) if kind is Kind.DECIMAL and numbers else None,
        bits=INTEGER_BITS.get(base, 64),
    )


def _derive(model: LiveModel) -> ModelShape:
    definition = model.definition
    declared = {column.name: column for column in definition.columns}
    columns = {name: _column(stored, declared.get(name)) for name, stored in model.stored.items()}
    if "id" not in columns or columns["id"].kind is not Kind.UUID:
        raise Misconfigured(f"table {model.table_name!r} of model {model.key!r} needs an id of type uuid")
    readable = tuple(column for column in columns.values() if not column.secret)
    names = frozenset(column.name for column in readable)
    computed = {formula.target for formula in definition.formulas}
    computed |= {rollup.target for relation in definition.relations for rollup in relation.rollups}
    assignable = frozenset(
        name for name, column in columns.items() if name not in KERNEL_COLUMNS and not column.generated
    )
    accepted = frozenset(
        name for name in assignable - computed if (column := declared.get(name)) is None or not column.readonly
    )
    marks_deleted = "deleted_at" in columns
    resource = model.key.lower()
    return ModelShape(
        model=model,
        columns=columns,
        readable=readable,
        assignable=assignable,
        settable=assignable - computed,
        accepted=accepted,
        search=tuple(
            columns[name]
            for name in dict.fromkeys(model.table.search_columns)
            if name in names and columns[name].kind not in TIME_KINDS
        ),
        scoped="organization_id" in columns,
        hides_deleted=marks_deleted,
        soft_delete=marks_deleted and (definition.soft_delete or not definition.declared),
        capabilities={action: f"{resource}.{action}" for action in ("read", "create", "update", "delete", "import")},
        events={verb: event_type(model.addon_key, model.key, verb) for verb in Verb},
        readable_names=names,
    )
