"""Statements of guests, drawn at random: mostly well-formed, some reaching where no guest may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

OWN: Mapping[str, Sequence[str]] = {
    "notes": ("title", "rank", "organization_id"),
    "addon_notes.notes": ("title", "done"),
    "accounts": ("login", "password"),
    "days": ("day", "mood"),
    "good_days": ("day",),
}
OTHERS: Mapping[str, Sequence[str]] = {
    "addon_orders.invoices": ("number", "total"),
    "addon_orders.payments": ("amount",),
    "addon_orders.safes": ("label", "pin"),
}
KERNEL: Mapping[str, Sequence[str]] = {
    "users": ("email", "password_hash"),
    "public.users": ("name", "token_epoch"),
    "organizations": ("name",),
    "metacore_installations": ("secret_enc",),
    "pg_authid": ("rolname",),
    "pg_catalog.pg_class": ("relname",),
    "information_schema.tables": ("table_name",),
}
RELATIONS = {**OWN, **OTHERS, **KERNEL}
SECRET_VALUES = ("acme password", "acme pin", "$argon2", "globex", "gus@")
"""What no reply may hold: secrets of the guest's own organization, and anything of the other one."""

EVIL = (
    "current_setting('search_path')",
    "pg_read_file('PG_VERSION')",
    "set_config('app.current_org', '', true)",
    "metacore_login('ada@example.com')::text",
    "query_to_xml('SELECT 1', true, true, '')::text",
    "'users'::regclass::text",
    "pg_typeof(1)::text",
    "CURRENT_USER::text",
)


@dataclass(frozen=True)
class Scope:
    """What may be named at a place: aliases with their columns, CTEs, and how deep the statement may still go. A `tame`
    statement names nothing but what every guest may."""

    columns: tuple[tuple[str, str], ...] = ()
    queries: tuple[str, ...] = ()
    depth: int = 3
    tame: bool = False

    def deeper(self, **changes: Any) -> Scope:
        return replace(self, **{"depth": self.depth - 1, **changes})


@dataclass(frozen=True)
class Statement:
    sql: str
    target: str = ""
    """The relation that is changed, as it is written."""


TAME = ("notes", "addon_notes.notes", "days", "good_days")


def _relation(draw: st.DrawFn, scope: Scope) -> str:
    if scope.tame:
        return draw(st.sampled_from(TAME))
    pool = draw(st.sampled_from((OWN, OWN, OWN, OWN, OTHERS, OTHERS, KERNEL)))
    return draw(st.sampled_from(sorted(pool)))


def _expression(draw: st.DrawFn, scope: Scope) -> str:
    """An expression of type text."""
    leaves: list[Callable[[], str]] = [lambda: "'x'::text"]
    if scope.columns:
        leaves += [lambda: "{}.{}::text".format(*draw(st.sampled_from(scope.columns)))] * 6
        leaves.append(lambda: f"to_json({draw(st.sampled_from(scope.columns))[0]})::text")
    if not scope.tame and draw(st.integers(0, 39)) == 0:
        return draw(st.sampled_from(EVIL))
    if scope.depth <= 0 or draw(st.booleans()):
        return draw(st.sampled_from(leaves))()
    inner = scope.deeper()
    shape = draw(st.integers(0, 6))
    if shape == 0:
        return f"lower({_expression(draw, inner)})"
    if shape == 1:
        return f"concat({_expression(draw, inner)}, {_expression(draw, inner)})"
    if shape == 2:
        then, other = _expression(draw, inner), _expression(draw, inner)
        return f"CASE WHEN {_condition(draw, inner)} THEN {then} ELSE {other} END"
    if shape == 3:
        return f"(SELECT v FROM ({_select(draw, inner)}) s(v) ORDER BY 1 LIMIT 1)"
    if shape == 4:
        return f"coalesce({_expression(draw, inner)}, {_expression(draw, inner)})"
    if shape == 5:
        return f"jsonb_build_object('a', {_expression(draw, inner)}) ->> 'a'"
    return f"array_to_string(ARRAY(SELECT v FROM ({_select(draw, inner)}) s(v)), ',')"


def _condition(draw: st.DrawFn, scope: Scope) -> str:
    inner = scope.deeper()
    shape = draw(st.integers(0, 3)) if scope.depth > 0 else 0
    if shape == 0:
        return f"{_expression(draw, inner)} IS NOT NULL"
    if shape == 1:
        return f"{_expression(draw, inner)} = {_expression(draw, inner)}"
    if shape == 2:
        return f"EXISTS ({_select(draw, inner)})"
    return f"{_expression(draw, inner)} IN ({_select(draw, inner)})"


def _source(draw: st.DrawFn, scope: Scope, alias: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Something to read from, called `alias`, and the columns that it has."""
    inner = scope.deeper()
    shape = draw(st.integers(0, 5))
    if shape == 0 and scope.depth > 0:
        return f"({_select(draw, inner.deeper(columns=(), depth=inner.depth))}) {alias}(v)", ((alias, "v"),)
    if shape == 1 and scope.depth > 0:
        return f"LATERAL ({_select(draw, inner)}) {alias}(v)", ((alias, "v"),)
    if shape == 2 and scope.queries:
        return f"{draw(st.sampled_from(scope.queries))} {alias}(v)", ((alias, "v"),)
    if shape == 3:
        return f"generate_series(1, 2) {alias}(v)", ((alias, "v"),)
    name = _relation(draw, scope)
    return f"{name} {alias}", tuple((alias, column) for column in RELATIONS[name])


def _select(draw: st.DrawFn, scope: Scope) -> str:
    """A query with one column of type text."""
    queries, clause = scope.queries, ""
    if scope.depth > 1 and draw(st.integers(0, 3)) == 0:
        # Also names that hide a table, of the kernel too.
        name = draw(st.sampled_from(("x", "notes", "users", "invoices")))
        recursive = draw(st.booleans())
        own = (*queries, name) if recursive else queries
        body = _select(draw, scope.deeper(columns=(), queries=queries, depth=scope.depth - 2))
        if recursive:
            body = f"{body} UNION {_select(draw, scope.deeper(columns=(), queries=own, depth=scope.depth - 2))}"
        clause = f"WITH {'RECURSIVE ' if recursive else ''}{name}(v) AS ({body}) "
        queries = (*queries, name)
    columns = scope.columns
    sources = []
    for number in range(draw(st.integers(1, 2))):
        alias = f"t{scope.depth}{len(columns)}{number}"
        text, found = _source(draw, replace(scope, columns=columns, queries=queries), alias)
        sources.append(text)
        columns = (*columns, *found)
    inner = scope.deeper(columns=columns, queries=queries)
    where = f" WHERE {_condition(draw, inner)}" if draw(st.booleans()) else ""
    body = f"SELECT {_expression(draw, inner)} FROM {' CROSS JOIN '.join(sources)}{where}"
    if scope.depth > 1 and draw(st.integers(0, 4)) == 0:
        verb = draw(st.sampled_from(("UNION", "UNION ALL", "EXCEPT", "INTERSECT")))
        body = f"({body}) {verb} ({_select(draw, scope.deeper(queries=queries))})"
    return clause + body


@st.composite
def queries(draw: st.DrawFn) -> Statement:
    scope = Scope(tame=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        return Statement(f"SELECT * FROM {_relation(draw, scope)}")
    return Statement(_select(draw, scope))


@st.composite
def changes(draw: st.DrawFn) -> Statement:
    start = Scope(depth=2, tame=draw(st.booleans()))
    target = draw(st.sampled_from(("notes", "days"))) if start.tame else _relation(draw, start)
    column = draw(st.sampled_from([name for name in RELATIONS[target] if name != "organization_id" or not start.tame]))
    scope = replace(start, columns=tuple(("t", name) for name in RELATIONS[target]))
    returning = f" RETURNING {_expression(draw, scope)}" if draw(st.booleans()) else ""
    where = f" WHERE {_condition(draw, scope)}"
    shape = draw(st.integers(0, 4))
    if shape == 0:
        return Statement(f"DELETE FROM {target} t{where}{returning}", target)
    if shape == 1:
        return Statement(f"UPDATE {target} t SET {column} = DEFAULT{where}{returning}", target)
    source, _ = _source(draw, start, "s")
    if shape == 2:
        return Statement(f"DELETE FROM {target} t USING {source}{where}{returning}", target)
    if shape == 3:
        names = ", ".join(dict.fromkeys(("organization_id", column)))
        nothing = "NULL::uuid, NULL" if column != "organization_id" else "NULL::uuid"
        query = f"SELECT {nothing} FROM ({_select(draw, start)}) q WHERE false"
        return Statement(f"INSERT INTO {target} AS t ({names}) {query}{returning}", target)
    action = draw(st.sampled_from(("DELETE", f"UPDATE SET {column} = DEFAULT", "DO NOTHING")))
    condition = _condition(draw, scope)
    return Statement(f"MERGE INTO {target} t USING {source} ON {condition} WHEN MATCHED THEN {action}", target)
