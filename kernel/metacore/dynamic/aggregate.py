"""Counting what is there: the values of one column under the filters of a list (contract 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metacore.db.database import Database
from metacore.dynamic import lookup, statements
from metacore.dynamic.export_formats import plain_text
from metacore.dynamic.options import OptionsQuery, OptionsService, as_stored, has_options
from metacore.dynamic.query import ListQuery, parse_shaped_query
from metacore.dynamic.shape import TEXT_KINDS, ColumnShape, ModelShape, shape_of
from metacore.errors import InvalidInput, NotFound, NotWired, PermissionDenied
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.registry import LiveModel, Registry


@dataclass(frozen=True, slots=True)
class FacetsQuery:
    """`rows` holds the filters and the search of the list; `q` narrows the values themselves, by text or label."""

    column: ColumnShape
    rows: ListQuery
    q: str = ""
    limit: int = lookup.DEFAULT_LIMIT


def parse_facets_query(model: LiveModel, params: Sequence[tuple[str, str]]) -> FacetsQuery:
    """Read `field`, `q`, `limit` (50, at most 200) and the filters of a list.

    Raises:
        NotFound: the model has no such column for the caller.
        InvalidInput: no field, one that cannot be filtered by, or a filter value of the wrong type.
    """
    shape = shape_of(model)
    given = dict(params)
    field = given.get("field", "")
    if not field:
        raise InvalidInput("field is needed", code="field_required")
    if field not in shape.readable_names:
        raise NotFound(f"model {model.key!r} has no field {field[:64]!r}", code="unknown_field")
    column = shape.columns[field]
    if not column.ordered or not _filterable(model, field):
        raise InvalidInput(f"field {field!r} cannot be filtered by", code="not_filterable")
    # Pages and sorting mean nothing here, and a cursor belongs to another list.
    of_rows = [(name, value) for name, value in params if name == "search" or name.startswith("f_")]
    return FacetsQuery(
        column=column,
        rows=parse_shaped_query(shape, of_rows, max_per_page=1),
        q=lookup.term_of(given.get("q", "")),
        limit=lookup.whole_number(given.get("limit", ""), "limit", lookup.DEFAULT_LIMIT, 1, lookup.MAX_LIMIT),
    )


class FacetsService:
    """Counts values; `options` names those that have a name of their own."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        *,
        permissions: PermissionService | None = None,
        options: OptionsService | None = None,
    ) -> None:
        self._db = db
        self._registry = registry
        self._permissions = permissions
        self._options = options

    async def facets(self, principal: Principal, name: str, params: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """`[{value, label, count, color?, icon?}]`, the most frequent first; empty values are left out.

        Raises:
            NotFound, PermissionDenied, InvalidInput: as `parse_facets_query`, and for the model itself.
        """
        model = self._registry.model_for(name, principal.organization_id)
        shape = shape_of(model)
        await lookup.require_read(self._permissions, principal, shape)
        query = parse_facets_query(model, params)
        called_so = await self._values_called(principal, model, query)
        statement = self._statement(principal, shape, query, called_so)
        values = statements.filter_values(shape, query.rows, self._db.dialect)
        counted = await lookup.fetch(self._db, principal.organization_id, statement, values)
        names = await self._names(principal, model, query.column, [row["value"] for row in counted])
        return [_bucket(row, names) for row in counted]

    async def _values_called(self, principal: Principal, model: LiveModel, query: FacetsQuery) -> list[Any]:
        """Values whose label, which is what people see of them, holds the text that they look for."""
        if self._options is None or not query.q or not has_options(model, query.column.name):
            return []
        asked = OptionsQuery(field=query.column.name, q=query.q, limit=lookup.MAX_LIMIT)
        try:
            options = await self._options.options(principal, model.key, asked)
        except (NotFound, NotWired, PermissionDenied):
            return []
        found = (as_stored(query.column, plain_text(row["value"])) for row in options.rows)
        return [value for value in found if value is not None]

    def _statement(
        self, principal: Principal, shape: ModelShape, query: FacetsQuery, called_so: Sequence[Any]
    ) -> sa.Select[Any]:
        table = lookup.table_of(self._db, shape, principal.organization_id)
        stored = table.c[query.column.name]
        conditions = [
            *lookup.scope_of(shape, table, principal.organization_id),
            *statements.filtered(shape, table.c, query.rows, self._db.dialect),
            stored.is_not(None),
        ]
        if query.column.kind in TEXT_KINDS:
            conditions.append(stored != "")
        if query.q:
            conditions.append(sa.or_(lookup.contains(table, query.column, query.q), stored.in_(called_so)))
        value, count = stored.label("value"), sa.func.count().label("count")
        return (
            sa.select(value, count).where(*conditions).group_by(stored).order_by(count.desc(), value).limit(query.limit)
        )

    async def _names(
        self, principal: Principal, model: LiveModel, column: ColumnShape, values: Sequence[Any]
    ) -> dict[str, dict[str, Any]]:
        """The options of these values by the value's text; none where the caller may not see where they come from."""
        if self._options is None or not values or not has_options(model, column.name):
            return {}
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(values), lookup.MAX_IDS):
            ids = tuple(plain_text(value) for value in values[start : start + lookup.MAX_IDS])
            try:
                options = await self._options.options(principal, model.key, OptionsQuery(field=column.name, ids=ids))
            except (NotFound, NotWired, PermissionDenied):
                return {}
            found |= {plain_text(row["value"]): row for row in options.rows}
        return found


def _filterable(model: LiveModel, field: str) -> bool:
    """Whether the table says so, of the column or by a filter of its own."""
    shown = next((cell for cell in model.table.columns if cell.key == field), None)
    return (shown is not None and shown.filterable) or any(
        field in (item.column, item.key) for item in model.table.filters
    )


def _bucket(row: sa.RowMapping, names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    text = plain_text(row["value"])
    named = names.get(text, {})
    shown = {"value": row["value"], "label": named.get("label") or text, "count": row["count"]}
    return shown | {part: named[part] for part in ("color", "icon") if part in named}
