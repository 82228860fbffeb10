"""The query string of a list as one value. Pure: no statement is built here, and no column's name goes on unchecked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metacore.dynamic import cursor as cursors
from metacore.dynamic.filters import MAX_TERM, Condition, equal_to, parse_filter
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.dynamic.values import BadValue
from metacore.errors import InvalidInput
from metacore.registry import LiveModel

DEFAULT_PER_PAGE = 20
MAX_FILTERS = 50
MAX_OFFSET = 10_000_000
"""Rows that a numbered page may skip: PostgreSQL walks them all. A cursor reaches any depth at the cost of page one."""

MAX_DIGITS = 18
BEYOND: int = 10**MAX_DIGITS
FILTER_PREFIX = "f_"


class Count(StrEnum):
    """How `meta.total` is found: exactly, up to a cap, by the planner's estimate beyond a cap, or not at all."""

    EXACT = "exact"
    CAPPED = "capped"
    ESTIMATED = "estimated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One list, parsed and checked. Equal queries ask for the same rows.

    `sort` is a readable column; ties are broken by id in the same direction. `keyset` tells that the client pages by
    cursor, `cursor` is None on its first page. `count_named` tells that the client chose how to count.
    """

    filters: tuple[Condition, ...] = ()
    search: str = ""
    sort: str = "id"
    descending: bool = True
    page: int = 1
    per_page: int = DEFAULT_PER_PAGE
    count: Count = Count.EXACT
    count_named: bool = False
    keyset: bool = False
    cursor: cursors.Cursor | None = None

    @property
    def offset(self) -> int:
        return 0 if self.keyset else (self.page - 1) * self.per_page


def parse_list_query(model: LiveModel, params: Sequence[tuple[str, str]], *, max_per_page: int) -> ListQuery:
    """Read the parameters of contract 5, plus `count` and `cursor`.

    Of a name given twice the last counts; filters add up. Unknown parameters, and unknown, secret or unsortable
    columns, are dropped.

    Raises:
        InvalidInput: a number that is none, a page beyond reach, a filter value of the wrong type, a broken cursor.
    """
    return parse_shaped_query(shape_of(model), params, max_per_page=max_per_page)


def parse_shaped_query(shape: ModelShape, params: Sequence[tuple[str, str]], *, max_per_page: int) -> ListQuery:
    """`parse_list_query` for a model whose shape is at hand."""
    given: dict[str, str] = {}
    filters: list[Condition] = []
    for name, value in params:
        if not name.startswith(FILTER_PREFIX):
            given[name] = value
        elif (column := name[len(FILTER_PREFIX) :]) in shape.readable_names:
            filters += parse_filter(shape.columns[column], value)
            if len(filters) > MAX_FILTERS:
                raise InvalidInput(f"more than {MAX_FILTERS} filters", code="invalid_filter")
    per_page = min(max(_number(given, "per_page", DEFAULT_PER_PAGE), 1), max_per_page)
    page = max(_number(given, "page", 1), 1)
    sort, descending = _order(shape, given)
    keyset = "cursor" in given
    if not keyset and (page - 1) * per_page > MAX_OFFSET:
        raise InvalidInput(
            f"page: a numbered page may skip {MAX_OFFSET} rows at most; page by cursor beyond that",
            code="page_too_deep",
        )
    return ListQuery(
        filters=tuple(filters),
        search=given.get("search", "").strip()[:MAX_TERM] if shape.search else "",
        sort=sort,
        descending=descending,
        page=page,
        per_page=per_page,
        count=_count(given),
        count_named="count" in given,
        keyset=keyset,
        cursor=cursors.decode(shape, shape.columns[sort], descending, given["cursor"])
        if keyset and given["cursor"]
        else None,
    )


def rows_equal(shape: ModelShape, equal: Mapping[str, Any], limit: int) -> ListQuery:
    """The first `limit` rows, newest first, whose readable columns have these JSON values.

    Raises:
        InvalidInput: another column, or a value that the column cannot have; it is named.
    """
    if len(equal) > MAX_FILTERS:
        raise InvalidInput(f"more than {MAX_FILTERS} conditions", code="invalid_filter")
    filters: list[Condition] = []
    for name, value in equal.items():
        if name not in shape.readable_names:
            raise InvalidInput(f"unknown column {name[:64]!r}", code="unknown_column")
        try:
            filters.append(equal_to(shape.columns[name], value))
        except BadValue as error:
            raise InvalidInput(f"{name}: {error.message}", code="invalid_filter") from error
    sort, descending = _order(shape, {})
    # In the order of their names, so that callers who ask for the same share one statement.
    filters.sort(key=lambda condition: condition.column)
    return ListQuery(filters=tuple(filters), sort=sort, descending=descending, per_page=limit, count=Count.NONE)


def _order(shape: ModelShape, given: dict[str, str]) -> tuple[str, bool]:
    """The sort column and whether it runs backwards: by creation when the client named none, newest first when it named
    one that cannot be sorted by, since `order` was meant for that one."""
    name = given.get("sortBy", "")
    descending = given.get("order", "desc").lower() != "asc"
    if name in shape.readable_names and shape.columns[name].ordered:
        return name, descending
    return ("created_at" if "created_at" in shape.readable_names else "id"), descending or bool(name)


def _count(given: dict[str, str]) -> Count:
    try:
        return Count(given.get("count", Count.EXACT))
    except ValueError:
        raise InvalidInput("count: one of exact, capped, estimated, none", code="invalid_query") from None


def _number(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, "").strip()
    if not text:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidInput(f"{name}: expected a whole number", code="invalid_query")
    if len(digits) > MAX_DIGITS:
        # Beyond every limit, so it need not be read to be clamped or refused like any number that is too large.
        return BEYOND if digits == text else -BEYOND
    return int(text)
