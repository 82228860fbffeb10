"""The statements of the PostgreSQL path, each one trip and one transaction (docs/performance.md, row-level security).

Every statement reads `from s`, where evaluating `s` sets the organization (and the time zone UTC) for this transaction
only. The rest hangs on a column of `s`, so PostgreSQL must run that first: a policy that was looked at before would
find no organization and hide every row. CTEs that write run when they are first read, which is after `s`. The
organization stands in the conditions as well.

Rows become JSON in the database. LIMIT is part of the text; OFFSET and the ids of a batch hide in a subselect: with
bare parameters in their place PostgreSQL plans anew for each execution, which doubles the time of a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

from metacore.dynamic import statements as common
from metacore.dynamic.query import Count, ListQuery
from metacore.dynamic.shape import ColumnShape, Kind, ModelShape
from metacore.dynamic.statements import Spelled
from metacore.events.canonical import Verb
from metacore.manifest.model import Relation
from metacore.orm.events import Event
from metacore.orm.sequences import SequenceCounter

COUNT_CAP = 10_000
"""Rows that `count=capped` counts at most."""

ESTIMATE_FROM = 1_000
"""Up to here `count=estimated` counts exactly; beyond it the planner is asked."""

POSTGRESQL: Final = "postgresql"
_DIALECT: sa.Dialect = asyncpg_dialect()  # type: ignore[no-untyped-call]
_EVENTS = cast(sa.Table, Event.__table__)
_SEQUENCES = cast(sa.Table, SequenceCounter.__table__)
_UUID = sa.Uuid(as_uuid=True)
_NOTHING_SKIPPED: sa.ColumnElement[Any] = sa.literal_column("0")
"""`OFFSET 0` keeps PostgreSQL from merging a subquery into its surroundings."""


@dataclass(frozen=True, slots=True)
class Statement:
    """`$n` text, and the names of the parameters in their order."""

    sql: str
    names: tuple[str, ...]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self.names]


def compiled(statement: Any) -> Statement:
    result = statement.compile(dialect=_DIALECT)
    return Statement(str(result), tuple(result.positiontup or ()))


def list_statement(shape: ModelShape, schema: str, query: ListQuery) -> Statement:
    """Gives `data` (JSON array or null), `total` (or null); for a keyset also `size`, `last_value`, `last_id`."""
    scope = _scope()
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    conditions = [
        *_mine(shape, table, scope),
        *common.visible(shape, table.c),
        *common.filtered(shape, table.c, query, POSTGRESQL),
    ]
    page = (
        sa.select(*_shown(shape, table.c))
        .where(*conditions, *common.after_cursor(shape, table.c, query, POSTGRESQL))
        .order_by(*common.order_of(shape, table.c, query, POSTGRESQL))
        .limit(sa.literal_column(str(query.per_page)))
        .correlate(scope)
    )
    if query.offset:
        page = page.offset(_hidden(sa.bindparam("offset", type_=sa.BigInteger())))
    rows = page.subquery(_unused(shape, "r"))
    total = _total(table, conditions, query.count).correlate(scope).scalar_subquery() if query.count != "none" else None
    shown_total = sa.null() if total is None else total
    data = sa.func.json_agg(_row(rows))
    if not query.keyset:
        return compiled(
            sa.select(
                sa.select(data).correlate(scope).scalar_subquery().label("data"), shown_total.label("total")
            ).select_from(scope)
        )
    size = sa.func.count()
    found = (
        sa.select(
            data.label("data"),
            size.label("size"),
            sa.func.array_agg(rows.c[query.sort], type_=ARRAY(rows.c[query.sort].type))[size].label("last_value"),
            sa.func.array_agg(rows.c.id, type_=ARRAY(_UUID))[size].label("last_id"),
        )
        .correlate(scope)
        .lateral("found")
    )
    return compiled(sa.select(found, shown_total.label("total")).select_from(scope.join(found, sa.true())))


def estimate_statement(shape: ModelShape, schema: str, query: ListQuery) -> Statement:
    """A statement to be explained, not run: as many rows as the query finds without paging."""
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    mine = [table.c.organization_id == _organization()] if shape.scoped else []
    conditions = [*mine, *common.visible(shape, table.c), *common.filtered(shape, table.c, query, POSTGRESQL)]
    return compiled(sa.select(sa.literal_column("1")).select_from(table).where(*conditions))


def get_statement(shape: ModelShape, schema: str) -> Statement:
    """Gives `id`, `body` (JSON, null when there is no such row) for each of `ids`."""
    scope = _scope()
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    ids = sa.func.unnest(_hidden(sa.bindparam("ids", type_=ARRAY(_UUID))))
    wanted = ids.table_valued(sa.column("id", _UUID)).render_derived(name="w")
    row = (
        sa.select(*_shown(shape, table.c))
        .where(table.c.id == wanted.c.id, *_mine(shape, table, scope), *common.visible(shape, table.c))
        .correlate(scope, wanted)
        .subquery(_unused(shape, "r"))
    )
    body = sa.select(_row(row)).correlate(scope, wanted).scalar_subquery()
    return compiled(sa.select(wanted.c.id, body.label("body")).select_from(scope.join(wanted, sa.true())))


def current_statement(shape: ModelShape, schema: str, *, held: bool = False) -> Statement:
    """Gives `version` and `body` of the row `id`, if it is there. The version changes with every write to the row.

    When `held`, nobody else changes the row until the end of the transaction.
    """
    scope = _scope()
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    version = _unused(shape, "version")
    found = (
        sa.select(_version("t").label(version), *_shown(shape, table.c))
        .where(table.c.id == _id(), *_mine(shape, table, scope), *common.visible(shape, table.c))
        .offset(_NOTHING_SKIPPED)
    )
    row = (found.with_for_update() if held else found).lateral("found")
    columns = [row.c[column.name] for column in shape.readable]
    shown = sa.select(*columns).correlate(row).subquery(_unused(shape, "r"))
    # As text, which every driver hands on with every digit.
    body = sa.select(sa.cast(_row(shown), sa.Text)).correlate(row).scalar_subquery()
    return compiled(sa.select(row.c[version], body.label("body")).select_from(scope.join(row, sa.true())))


def aggregate_statement(shape: ModelShape, schema: str, relation: Relation) -> Statement:
    """Gives `body`, a JSON object: what the rollups of `relation` come to over the children of one parent."""
    scope = _scope()
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    found = (
        sa.select(*common.aggregates(shape, table.c, relation, "t"))
        .where(
            *common.children(shape, table.c, relation, POSTGRESQL),
            *_mine(shape, table, scope),
            *common.visible(shape, table.c),
        )
        .correlate(scope)
        .offset(_NOTHING_SKIPPED)
        .lateral("found")
    )
    shown = sa.select(*found.c).correlate(found).subquery("r_")
    body = sa.select(sa.cast(_row(shown), sa.Text)).correlate(found).scalar_subquery()
    return compiled(sa.select(body.label("body")).select_from(scope.join(found, sa.true())))


def insert_statement(shape: ModelShape, schema: str, columns: Sequence[str]) -> Statement:
    """Inserts the JSON rows of `rows`, each with id and created_by_id, and their events; gives `id`, `body` of each."""
    table = common.table_of(shape, schema, POSTGRESQL)
    author = shape.columns.get("created_by_id")
    wanted = _record("json_to_recordset", "rows", [shape.columns[name] for name in ("id", *columns)], author)
    values: dict[str, sa.ColumnElement[Any]] = {"id": wanted.c.id, **{name: wanted.c[name] for name in columns}}
    if shape.scoped:
        values["organization_id"] = _organization()
    if author is not None:
        values["created_by_id"] = wanted.c.created_by_id
    values |= {name: _now(shape, name) for name in ("created_at", "updated_at") if name in shape.columns}
    written = (
        sa.insert(table)
        .from_select(list(values), sa.select(*values.values()))
        .returning(*(table.c[column.name] for column in shape.readable))
        .cte("x")
    )
    made = _bodies(shape, written)
    actor = made.c.created_by_id if names_author(shape) else _actor()
    event = _event(shape, Verb.CREATED, made.c.id, actor, {"after": made.c.body})
    return _writing(made, event)


def update_statement(shape: ModelShape, schema: str, columns: Sequence[str], *, guarded: bool) -> Statement:
    """Sets `columns` of the row `id` from the JSON object `row`; gives `id`, `body` if it was there.

    When `guarded`, only if the row's version still is `version`.
    """
    table = common.table_of(shape, schema, POSTGRESQL)
    old = _locked(shape, schema, guarded)
    wanted = _record("json_to_record", "row", [shape.columns[name] for name in columns], None)
    values = {name: wanted.c[name] for name in columns}
    if "updated_at" in shape.columns:
        values["updated_at"] = _now(shape, "updated_at")
    written = (
        sa.update(table)
        .values(values)
        .where(*_target(shape, table, old))
        .returning(*(table.c[column.name] for column in shape.readable))
        .cte("x")
    )
    made = _bodies(shape, written)
    event = _event(shape, Verb.UPDATED, made.c.id, _actor(), {"before": _before(shape, old), "after": made.c.body})
    return _writing(made, event)


def delete_statement(shape: ModelShape, schema: str, *, guarded: bool) -> Statement:
    """Deletes the row `id`, or marks it; gives `id`, `body` (as it was before) if it was there."""
    table = common.table_of(shape, schema, POSTGRESQL)
    old = _locked(shape, schema, guarded)
    if shape.soft_delete:
        marks = {name: _now(shape, name) for name in ("deleted_at", "updated_at") if name in shape.columns}
        written = sa.update(table).values(marks).where(*_target(shape, table, old)).returning(table.c.id).cte("x")
    else:
        written = sa.delete(table).where(*_target(shape, table, old)).returning(table.c.id).cte("x")
    made = sa.select(written.c.id, _before(shape, old).label("body")).cte("j")
    event = _event(shape, Verb.DELETED, made.c.id, _actor(), {"before": made.c.body})
    return _writing(made, event)


@cache
def number_statement() -> Statement:
    """Raises the sequence (`addon_key`, `model_key`, `key`, `scope`) of the organization by one; gives its value."""
    place = {name: sa.bindparam(name, type_=sa.Text()) for name in ("addon_key", "model_key", "key", "scope")}
    one: sa.ColumnElement[Any] = sa.literal_column("1")
    inserted = insert(_SEQUENCES).values({"organization_id": _organization(), **place, "value": one})
    raised = inserted.on_conflict_do_update(
        index_elements=[column.name for column in _SEQUENCES.primary_key],
        set_={"value": _SEQUENCES.c.value + one},
    )
    written = raised.returning(_SEQUENCES.c.value).cte("x")
    scope = _scope()
    read = sa.select(written.c.value).where(scope.c.org.is_not(None)).offset(_NOTHING_SKIPPED).lateral("l")
    return compiled(sa.select(read.c.value).select_from(scope.join(read, sa.true())))


def names_author(shape: ModelShape) -> bool:
    """Whether a stored row tells who made it; if not, only one caller's rows can share a statement."""
    author = shape.columns.get("created_by_id")
    return author is not None and author.kind is Kind.UUID


def _scope() -> sa.Subquery:
    """One row; evaluating it sets the organization and UTC until the end of the transaction."""
    setting = sa.func.set_config(
        sa.literal_column("'app.current_org'"), sa.cast(_organization(), sa.Text), sa.true(), type_=sa.Text()
    )
    zone = sa.func.set_config(sa.literal_column("'TimeZone'"), sa.literal_column("'UTC'"), sa.true(), type_=sa.Text())
    selected = sa.select(sa.cast(setting, _UUID).label("org"), zone.label("zone"))
    return selected.offset(_NOTHING_SKIPPED).subquery("s")


def _hidden(parameter: sa.BindParameter[Any]) -> sa.ScalarSelect[Any]:
    """The parameter where the planner cannot see its value, so that one plan serves every value."""
    return sa.select(parameter).scalar_subquery()


def _organization() -> sa.BindParameter[Any]:
    return sa.bindparam("organization", type_=_UUID)


def _actor() -> sa.BindParameter[Any]:
    return sa.bindparam("actor", type_=_UUID)


def _id() -> sa.BindParameter[Any]:
    return sa.bindparam("id", type_=_UUID)


def _version(table: str) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal_column(f"{table}.xmin"), sa.Text)


def _mine(shape: ModelShape, table: Any, scope: sa.Subquery) -> list[sa.ColumnElement[bool]]:
    """Rows of the organization; and in any case something that waits for the scope."""
    return [table.c.organization_id == scope.c.org if shape.scoped else scope.c.org.is_not(None)]


def _shown(shape: ModelShape, columns: Any) -> list[sa.ColumnElement[Any]]:
    """The readable columns; a timestamp without time zone is taken as UTC."""
    return [
        sa.func.timezone(sa.literal_column("'UTC'"), columns[column.name], type_=sa.DateTime(timezone=True)).label(
            column.name
        )
        if column.kind is Kind.CLOCK
        else columns[column.name]
        for column in shape.readable
    ]


def _unused(shape: ModelShape, name: str) -> str:
    """`name`, or something like it that no column has: `row_to_json(r)` would take a column called r."""
    while name in shape.columns:
        name += "_"
    return name


def _row(rows: Any) -> sa.ColumnElement[Any]:
    return sa.func.row_to_json(rows.table_valued(), type_=sa.JSON())


def _total(table: Any, conditions: Sequence[sa.ColumnElement[bool]], count: Count) -> sa.Select[Any]:
    if count is Count.EXACT:
        return sa.select(sa.func.count()).select_from(table).where(*conditions)
    bound = COUNT_CAP if count is Count.CAPPED else ESTIMATE_FROM
    some: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table).where(*conditions)
    # One more than the bound tells that there are more.
    return sa.select(sa.func.count()).select_from(some.limit(sa.literal_column(str(bound + 1))).subquery("some"))


def _record(function: str, parameter: str, columns: Sequence[ColumnShape], author: ColumnShape | None) -> Any:
    """The JSON parameter as a relation `w` with the table's own types, so PostgreSQL reads each value."""
    typed = [*columns, author] if author is not None else columns
    call = getattr(sa.func, function)(sa.bindparam(parameter, type_=sa.JSON()))
    relation = call.table_valued(*(sa.column(column.name, Spelled(column.stored.type)) for column in typed))
    return relation.render_derived(name="w", with_types=True)


def _now(shape: ModelShape, name: str) -> sa.ColumnElement[Any]:
    now = sa.func.now(type_=sa.DateTime(timezone=True))
    if shape.columns[name].kind is Kind.CLOCK:
        return sa.func.timezone(sa.literal_column("'UTC'"), now, type_=sa.DateTime())
    return now


def _locked(shape: ModelShape, schema: str, guarded: bool) -> sa.CTE:
    """The row `id` as it is now, held until the end of the transaction."""
    table = common.table_of(shape, schema, POSTGRESQL).alias("t")
    conditions = [table.c.id == _id(), *common.visible(shape, table.c)]
    if shape.scoped:
        conditions.append(table.c.organization_id == _organization())
    if guarded:
        conditions.append(_version("t") == sa.bindparam("version", type_=sa.Text()))
    columns = [table.c[column.name] for column in shape.readable]
    return sa.select(*columns).where(*conditions).with_for_update().cte("o")


def _target(shape: ModelShape, table: sa.TableClause, old: sa.CTE) -> list[sa.ColumnElement[bool]]:
    mine = [table.c.organization_id == _organization()] if shape.scoped else []
    return [table.c.id == _id(), *mine, table.c.id == old.c.id]


def _before(shape: ModelShape, old: sa.CTE) -> sa.ScalarSelect[Any]:
    rows = sa.select(*_shown(shape, old.c)).subquery(_unused(shape, "r"))
    return sa.select(_row(rows)).scalar_subquery()


def _bodies(shape: ModelShape, written: sa.CTE) -> sa.CTE:
    """Each written row's id and JSON, made once for the caller and for the event."""
    rows = sa.select(*_shown(shape, written.c)).subquery(_unused(shape, "r"))
    columns = [rows.c.id, _row(rows).label("body")]
    if names_author(shape) and "created_by_id" in rows.c:
        columns.append(rows.c.created_by_id)
    return sa.select(*columns).cte("j")


def _event(
    shape: ModelShape,
    verb: Verb,
    row_id: sa.ColumnElement[Any],
    actor: sa.ColumnElement[Any],
    data: Mapping[str, sa.ColumnElement[Any]],
) -> sa.CTE:
    parts: list[Any] = [sa.literal_column("'id'"), row_id]
    for name, value in data.items():
        parts += [sa.literal_column(f"'{name}'"), value]
    values = {
        "organization_id": _organization(),
        "addon_key": sa.bindparam("addon_key", type_=sa.Text()),
        "event_type": sa.bindparam("event_type", type_=sa.Text()),
        "tags": sa.literal_column("'[]'::jsonb"),
        "data": sa.func.jsonb_build_object(*parts, type_=JSONB()),
        "actor_id": actor,
        "depth": sa.bindparam("depth", type_=sa.SmallInteger()),
    }
    source = sa.select(*(value.label(name) for name, value in values.items()))
    return sa.insert(_EVENTS).from_select(list(values), source, include_defaults=False).cte("e")


def _writing(made: sa.CTE, event: sa.CTE) -> Statement:
    """Read what was written only once the scope is set; the event is written in any case."""
    scope = _scope()
    read = sa.select(made.c.id, made.c.body).where(scope.c.org.is_not(None)).offset(_NOTHING_SKIPPED).lateral("l")
    return compiled(sa.select(read.c.id, read.c.body).select_from(scope.join(read, sa.true())).add_cte(event))
