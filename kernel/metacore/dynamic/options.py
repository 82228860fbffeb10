"""Values to choose from: static lists, rows of other models, lists that the host computes (contract 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from metacore.db.database import Database
from metacore.dynamic import lookup
from metacore.dynamic.export_formats import plain_text
from metacore.dynamic.shape import TEXT_KINDS, ColumnShape, ModelShape, shape_of
from metacore.dynamic.values import BadValue, read_text
from metacore.errors import InvalidInput, NotFound, NotWired, Problem
from metacore.identity import Principal
from metacore.manifest.model import Column, OptionsSource
from metacore.metadata.facts import facts_of
from metacore.metadata.model import ColumnDef, FieldDef, OptionDef
from metacore.metadata.translation import Translator, translated
from metacore.permissions.service import PermissionService
from metacore.registry import LiveModel, Registry

OWN_ROWS = frozenset({"", "id"})
"""Values of `field` that mean the rows of the model itself."""


@dataclass(frozen=True, slots=True)
class OptionsQuery:
    """`ids` asks for exactly these values, to show what was chosen before; then `q` and paging do not count."""

    field: str = ""
    q: str = ""
    filter_value: str = ""
    ids: tuple[str, ...] = ()
    limit: int = lookup.DEFAULT_LIMIT
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """Rows `{id, value, label, name, description?, image?, icon?, color?}` and where they came from."""

    kind: Literal["static", "dynamic"]
    rows: list[dict[str, Any]]


class OptionsProvider(Protocol):
    """A list that the host computes, named by a column's `options_source`."""

    async def __call__(self, principal: Principal, query: OptionsQuery) -> Sequence[OptionDef]: ...


def parse_options_query(params: Sequence[tuple[str, str]]) -> OptionsQuery:
    """Read `field`, `q` (also `search`), `filter_value`, `limit` (50, at most 200), `offset`, `ids`.

    Raises:
        InvalidInput: a limit or an offset that is no number, or more than 100 ids.
    """
    given = dict(params)
    ids = [part.strip() for name, value in params if name == "ids" for part in value.split(",") if part.strip()]
    if len(ids) > lookup.MAX_IDS:
        raise InvalidInput(f"at most {lookup.MAX_IDS} ids", code="invalid_value")
    return OptionsQuery(
        field=given.get("field", ""),
        q=lookup.term_of(given.get("q") or given.get("search", "")),
        filter_value=given.get("filter_value", ""),
        ids=tuple(ids),
        limit=lookup.whole_number(given.get("limit", ""), "limit", lookup.DEFAULT_LIMIT, 1, lookup.MAX_LIMIT),
        offset=lookup.whole_number(given.get("offset", ""), "offset", 0, 0, lookup.MAX_OFFSET),
    )


class OptionsService:
    """Options of live models. Rows of another model need that model installed and readable for the caller.

    `providers` are the host's computed lists by name. `translator` turns labels that are keys into texts.
    """

    def __init__(
        self,
        db: Database,
        registry: Registry,
        *,
        permissions: PermissionService | None = None,
        translator: Translator | None = None,
        providers: Mapping[str, OptionsProvider] | None = None,
    ) -> None:
        self._db = db
        self._registry = registry
        self._permissions = permissions
        self._translator = translator
        self._providers = dict(providers or {})

    async def options(self, principal: Principal, name: str, query: OptionsQuery) -> Options:
        """Options of the field `query.field` of the model, or of the model's own rows.

        Raises:
            NotFound: unknown model or field, or a source model that the organization has not.
            PermissionDenied: the caller may not read the model, or the model that the options come from.
            NotWired: a computed list that the host did not register.
            InvalidInput: a filter value that cannot be of the filter column's type.
        """
        model = self._registry.model_for(name, principal.organization_id)
        shape = shape_of(model)
        await lookup.require_read(self._permissions, principal, shape)
        if query.field in OWN_ROWS:
            return Options("dynamic", await self._rows(principal, shape, OptionsSource(source=model.key), "", query))
        column = model.definition.column(query.field)
        if column is not None and column.secret:
            raise _unknown_field(model, query.field)
        if column is not None and column.options_provider:
            return Options("dynamic", await self._provided(principal, column.options_provider, query))
        fixed = static_options(model, query.field)
        if fixed:
            return Options("static", _chosen(self._texts(fixed, principal, model.addon_key), query))
        source = _source_of(model, query.field, column)
        if source is not None:
            other = shape_of(self._registry.model_for(source.source, principal.organization_id))
            await lookup.require_read(self._permissions, principal, other)
            depends_on = column.depends_on if column is not None else ""
            return Options("dynamic", await self._rows(principal, other, source, depends_on, query))
        stored = shape.columns.get(query.field)
        if stored is None:
            raise _unknown_field(model, query.field)
        if not stored.ordered:
            raise NotFound(f"field {stored.name!r} of model {model.key!r} has no options", code="unknown_field")
        return Options("dynamic", await self._distinct(principal, shape, stored, query))

    def _texts(self, rows: list[dict[str, Any]], principal: Principal, addon_key: str) -> list[dict[str, Any]]:
        if self._translator is None:
            return rows
        locale = self._translator.negotiate(principal.locale)
        for row in rows:
            row["label"] = row["name"] = translated(row["label"], self._translator, locale, addon_key)
        return rows

    async def _provided(self, principal: Principal, provider: str, query: OptionsQuery) -> list[dict[str, Any]]:
        compute = self._providers.get(provider)
        if compute is None:
            raise NotWired(f"the host has no options provider {provider!r}")
        return _chosen([_option_row(option) for option in await compute(principal, query)], query)

    async def _rows(
        self, principal: Principal, shape: ModelShape, source: OptionsSource, depends_on: str, query: OptionsQuery
    ) -> list[dict[str, Any]]:
        """Rows of `shape` as options; `depends_on` filters where the source does not say by what."""
        value = _readable(shape, source.value or "id")
        display = lookup.display_of(shape, source.label)
        table = lookup.table_of(self._db, shape, principal.organization_id)
        conditions = lookup.scope_of(shape, table, principal.organization_id)
        filter_by = source.filter_by or (depends_on if depends_on in shape.readable_names else "")
        if query.filter_value and filter_by:
            filtered = _readable(shape, filter_by)
            conditions.append(table.c[filtered.name] == _filter_value(filtered, query.filter_value))
        if query.ids:
            wanted = [known for text in query.ids if (known := as_stored(value, text)) is not None]
            conditions.append(table.c[value.name].in_(wanted))
        elif query.q:
            searched = {display.label, *([value.name] if value.kind in TEXT_KINDS else [])}
            conditions.append(sa.or_(*(lookup.contains(table, shape.columns[name], query.q) for name in searched)))
        shown = [table.c[column].label(part) for part, column in display.columns().items()]
        statement = (
            sa.select(table.c.id.label("id"), table.c[value.name].label("value"), *shown)
            .where(*conditions)
            .order_by(table.c[display.label], table.c.id)
        )
        return await self._paged(principal, statement, query)

    async def _distinct(
        self, principal: Principal, shape: ModelShape, column: ColumnShape, query: OptionsQuery
    ) -> list[dict[str, Any]]:
        """The values that a column without options has in the caller's rows."""
        table = lookup.table_of(self._db, shape, principal.organization_id)
        stored = table.c[column.name]
        conditions = [*lookup.scope_of(shape, table, principal.organization_id), stored.is_not(None)]
        if column.kind in TEXT_KINDS:
            conditions.append(stored != "")
        if query.ids:
            wanted = [known for text in query.ids if (known := as_stored(column, text)) is not None]
            conditions.append(stored.in_(wanted))
        elif query.q:
            conditions.append(lookup.contains(table, column, query.q))
        value = stored.label("value")
        statement = (
            sa.select(stored.label("id"), value, stored.label("label")).where(*conditions).distinct().order_by(value)
        )
        return await self._paged(principal, statement, query)

    async def _paged(
        self, principal: Principal, statement: sa.Select[Any], query: OptionsQuery
    ) -> list[dict[str, Any]]:
        page = statement.limit(lookup.MAX_IDS) if query.ids else statement.limit(query.limit).offset(query.offset)
        return [lookup.row_of(row) for row in await lookup.fetch(self._db, principal.organization_id, page)]


def has_options(model: LiveModel, field: str) -> bool:
    """Whether values of the field have names of their own somewhere."""
    column = model.definition.column(field)
    if column is not None and column.options_provider:
        return True
    return bool(static_options(model, field)) or _source_of(model, field, column) is not None


def static_options(model: LiveModel, field: str) -> list[dict[str, Any]]:
    """The fixed options of a field as rows, in order: its column's, else those of the form, else those of the table."""
    column = model.definition.column(field)
    if column is not None and column.options:
        return [
            _row(option.value, option.label, image=option.image, icon=option.icon, color=option.color)
            for option in column.options
        ]
    facts = facts_of(model.definition, field)
    shown: Sequence[OptionDef] = facts.options if facts is not None else ()
    parts: list[FieldDef | ColumnDef] = [*model.modal.fields, *model.table.columns]
    for part in parts:
        if not shown and part.key == field:
            shown = part.options
    return [_option_row(option) for option in shown]


def _option_row(option: OptionDef) -> dict[str, Any]:
    return _row(option.value, option.label, icon=option.icon, color=option.color)


def _row(value: Any, label: str, **more: str) -> dict[str, Any]:
    shown = label or plain_text(value)
    return {
        "id": plain_text(value),
        "value": value,
        "label": shown,
        "name": shown,
        **{part: text for part, text in more.items() if text},
    }


def _chosen(rows: list[dict[str, Any]], query: OptionsQuery) -> list[dict[str, Any]]:
    """The page of a fixed list that the query asks for."""
    if query.ids:
        return [row for row in rows if row["id"] in query.ids]
    term = query.q.casefold()
    found = [row for row in rows if term in row["label"].casefold() or term in row["id"].casefold()]
    return found[query.offset : query.offset + query.limit]


def _source_of(model: LiveModel, field: str, column: Column | None) -> OptionsSource | None:
    """The model whose rows are the options of the field."""
    if column is not None and column.options_source is not None:
        return column.options_source
    facts = facts_of(model.definition, field)
    shown = next((item.ref for item in model.modal.fields if item.key == field), "")
    ref = facts.ref if facts is not None and facts.ref else shown
    if not ref:
        return None
    relation = next(
        (item for item in model.definition.relations if item.kind == "belongs_to" and item.foreign_key == field), None
    )
    label = next((cell.display_field for cell in model.table.columns if cell.key == field), "")
    return OptionsSource(source=ref, value=relation.references if relation is not None else "id", label=label)


def _readable(shape: ModelShape, name: str) -> ColumnShape:
    if name not in shape.readable_names:
        raise NotFound(f"model {shape.model.key!r} has no column {name[:64]!r}", code="unknown_field")
    return shape.columns[name]


def _filter_value(column: ColumnShape, text: str) -> Any:
    try:
        return read_text(column, text)
    except BadValue as error:
        raise InvalidInput(
            f"filter_value: {error.message}",
            code="invalid_value",
            problems=[Problem("filter_value", error.code, error.message)],
        ) from error


def as_stored(column: ColumnShape, text: str) -> Any:
    """The value that an id means; None when no row can have it."""
    try:
        return read_text(column, text)
    except BadValue:
        return None


def _unknown_field(model: LiveModel, field: str) -> NotFound:
    return NotFound(f"model {model.key!r} has no field {field[:64]!r}", code="unknown_field")
