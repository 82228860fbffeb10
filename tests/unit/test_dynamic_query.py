"""Query strings of lists: what is read, what is dropped, what is refused."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.live_models import live_model

from metacore.dynamic import cursor as cursors
from metacore.dynamic.filters import MAX_TERM, Condition, Operator
from metacore.dynamic.query import MAX_OFFSET, Count, ListQuery, parse_list_query
from metacore.dynamic.shape import shape_of
from metacore.errors import InvalidInput
from metacore.ids import new_uuid

MODEL = live_model()
UTC = datetime.UTC


def parse(*params: tuple[str, str]) -> ListQuery:
    return parse_list_query(MODEL, params, max_per_page=100)


def conditions(name: str, value: str) -> tuple[Condition, ...]:
    return parse((name, value)).filters


def test_nothing_given_is_the_newest_twenty() -> None:
    assert parse() == ListQuery(sort="created_at", descending=True, page=1, per_page=20, count=Count.EXACT)


@pytest.mark.parametrize(
    ("text", "per_page"), [("", 20), ("1", 1), ("100", 100), ("101", 100), ("999999999", 100), ("0", 1), ("-5", 1)]
)
def test_per_page_is_clamped(text: str, per_page: int) -> None:
    assert parse(("per_page", text)).per_page == per_page


@pytest.mark.parametrize("name", ["page", "per_page"])
@pytest.mark.parametrize("text", ["abc", "1.5", "٣", "--1", "0x10"])
def test_numbers_that_are_none_are_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        parse((name, text))


def test_pages_beyond_reach_are_refused_and_cursors_suggested() -> None:
    assert parse(("page", str(MAX_OFFSET // 20 + 1))).offset == MAX_OFFSET
    for beyond in (str(MAX_OFFSET // 20 + 2), "9" * 18, "9" * 300):
        with pytest.raises(InvalidInput, match="cursor"):
            parse(("page", beyond))


@pytest.mark.parametrize(("text", "per_page"), [("9" * 300, 100), ("-" + "9" * 300, 1)])
def test_page_sizes_of_any_length_are_clamped(text: str, per_page: int) -> None:
    assert parse(("per_page", text)).per_page == per_page
    assert parse(("page", "-" + "9" * 300)).page == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("gt:3", "'gt' is no operator, there are eq, gte, ilike, in, lte, range"),
        ("GTE:3", "'GTE' is no operator"),
        ("eq:neq:3", "'neq' is no operator"),
        ("abc", "expected a whole number$"),
        ("gte:x:1", "expected a whole number$"),
    ],
)
def test_a_word_that_was_meant_as_an_operator_is_told_of(value: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse(("f_priority", value))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([("sortBy", "title")], ("title", True)),
        ([("sortBy", "title"), ("order", "asc")], ("title", False)),
        ([("sortBy", "title"), ("order", "ASC")], ("title", False)),
        ([("sortBy", "title"), ("order", "sideways")], ("title", True)),
        ([("order", "asc")], ("created_at", False)),
        ([("sortBy", ""), ("order", "asc")], ("created_at", False)),
        ([("order", "desc")], ("created_at", True)),
        ([("sortBy", "title; drop table tickets"), ("order", "asc")], ("created_at", True)),
        ([("sortBy", "pin")], ("created_at", True)),
        ([("sortBy", "meta")], ("created_at", True)),
    ],
)
def test_sort_columns_are_known_ordered_and_readable(params: list[tuple[str, str]], expected: tuple[str, bool]) -> None:
    query = parse(*params)
    assert (query.sort, query.descending) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("f_title", "eq:a:b", [(Operator.EQ, "a:b")]),
        ("f_title", "a:b", [(Operator.EQ, "a:b")]),
        ("f_title", "neq:a", [(Operator.EQ, "neq:a")]),
        ("f_title", "eq:", [(Operator.EQ, "")]),
        ("f_title", "", []),
        ("f_title", "ilike:a%", [(Operator.ILIKE, "a%")]),
        ("f_title", "ilike:", []),
        ("f_title", "in:a,,b,a", [(Operator.IN, ("a", "", "b"))]),
        ("f_priority", "in:1,2", [(Operator.IN, (1, 2))]),
        ("f_priority", "eq:", []),
        ("f_price", "range:1.5|", [(Operator.GTE, Decimal("1.5"))]),
        ("f_price", "range:|2", [(Operator.LTE, Decimal(2))]),
        ("f_price", "range:1", [(Operator.GTE, Decimal(1))]),
        ("f_due", "lte:2026-01-31", [(Operator.LTE, datetime.date(2026, 1, 31))]),
        ("f_created_at", "gte:2026-01-31", [(Operator.GTE, datetime.datetime(2026, 1, 31, tzinfo=UTC))]),
        ("f_created_at", "lte:2026-01-31", [(Operator.LT, datetime.datetime(2026, 2, 1, tzinfo=UTC))]),
        (
            "f_created_at",
            "2026-01-31",
            [
                (Operator.GTE, datetime.datetime(2026, 1, 31, tzinfo=UTC)),
                (Operator.LT, datetime.datetime(2026, 2, 1, tzinfo=UTC)),
            ],
        ),
        ("f_created_at", "lte:9999-12-31", []),
        (
            "f_created_at",
            "2026-01-31T10:00:00Z",
            [(Operator.EQ, datetime.datetime(2026, 1, 31, 10, tzinfo=UTC))],
        ),
        ("f_pin", "eq:1234", []),
        ("f_nonsense", "eq:1", []),
        ("f_", "eq:1", []),
    ],
)
def test_filters_become_conditions(name: str, value: str, expected: list[tuple[Operator, object]]) -> None:
    assert [(one.operator, one.value) for one in conditions(name, value)] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("f_priority", "abc"),
        ("f_priority", "gte:1.5"),
        ("f_priority", "99999999999"),
        ("f_priority", "in:1,x"),
        ("f_urgent", "ilike:t"),
        ("f_created_at", "ilike:2026"),
        ("f_meta", "gte:1"),
        ("f_owner_ref", "12"),
        ("f_title", "eq:a\x00"),
        ("f_title", "in:" + ",".join(str(number) for number in range(501))),
    ],
)
def test_filter_values_that_cannot_be_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse((name, value))
    assert [problem.field for problem in refused.value.problems] == [name]


def test_the_number_of_filters_is_bounded() -> None:
    with pytest.raises(InvalidInput):
        parse(*[("f_priority", "1")] * 51)


def test_search_terms_are_cut() -> None:
    assert len(parse(("search", "x" * 10_000)).search) == MAX_TERM
    assert len(conditions("f_title", "ilike:" + "x" * 10_000)[0].value) == MAX_TERM


def test_an_unknown_way_of_counting_is_refused() -> None:
    with pytest.raises(InvalidInput, match="count"):
        parse(("count", "roughly"))


def test_equal_queries_are_equal_and_hash_alike() -> None:
    params = [("f_priority", "in:1,2"), ("search", "x"), ("sortBy", "title")]
    assert parse(*params) == parse(*params)
    assert len({parse(*params), parse(*params), parse(*params, ("page", "2"))}) == 2


def test_a_cursor_is_read_back_and_fits_only_its_own_order() -> None:
    shape = shape_of(MODEL)
    row_id = new_uuid()
    text = cursors.encode(shape, shape.columns["price"], False, Decimal("1.5"), row_id)
    query = parse(("cursor", text), ("sortBy", "price"), ("order", "asc"), ("page", "7"))
    assert query.cursor == cursors.Cursor(Decimal("1.5"), row_id)
    assert query.offset == 0
    for params in (
        [("sortBy", "price")],
        [("sortBy", "title"), ("order", "asc")],
        [("order", "asc")],
    ):
        with pytest.raises(InvalidInput, match="cursor"):
            parse(("cursor", text), *params)


def test_a_cursor_of_another_model_is_refused() -> None:
    other = shape_of(live_model(MODEL.definition.model_copy(update={"key": "Other", "table": "others"})))
    text = cursors.encode(other, other.columns["created_at"], True, None, new_uuid())
    with pytest.raises(InvalidInput, match="cursor"):
        parse(("cursor", text))


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_forged_cursors_are_refused_cleanly(text: str) -> None:
    if text == "":
        return
    with pytest.raises(InvalidInput):
        parse(("cursor", text))


@given(st.lists(st.tuples(st.sampled_from(["f_price", "f_title", "f_due", "search", "page", "cursor"]), st.text())))
def test_no_query_string_breaks_the_parser(params: list[tuple[str, str]]) -> None:
    try:
        parse(*params)
    except InvalidInput as error:
        assert error.message
