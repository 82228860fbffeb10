"""What the judge says of a statement, without a database."""

from __future__ import annotations

import uuid

import pytest
from tests.hostile_guest_sql import HARMLESS_CHANGES, HARMLESS_QUERIES

from metacore.guest_sql import rules
from metacore.guest_sql.judge import judge
from metacore.guest_sql.judgement import Judgement, Mention, OwnNames, Refused
from metacore.installer import sql_rules
from metacore.wasm.abi import HostCode

OWN = OwnNames(
    "addon_notes",
    tables=frozenset({"notes", "accounts", "days"}),
    views=frozenset({"good_days"}),
    types=frozenset({"mood"}),
    functions=frozenset({"doubled"}),
)
PHYSICAL = "addon_notes_0a0b0c0d"


def judged(sql: str, *, writing: bool = False) -> Judgement:
    return judge(sql, OWN, physical_schema=PHYSICAL, writing=writing)


def targets(found: Judgement) -> tuple[list[str], list[str]]:
    return sorted(item.target for item in found.reads), sorted(item.target for item in found.writes)


@pytest.mark.parametrize("what", HARMLESS_QUERIES)
def test_a_harmless_query_needs_nothing_of_others(what: str) -> None:
    found = judged(HARMLESS_QUERIES[what])
    assert (targets(found), found.kind, found.returning) == (([], []), "select", False)


@pytest.mark.parametrize("what", HARMLESS_CHANGES)
def test_a_harmless_change_needs_nothing_of_others(what: str) -> None:
    organization = str(uuid.uuid4())
    found = judged(HARMLESS_CHANGES[what].format(org=organization), writing=True)
    assert targets(found) == ([], [])
    assert found.organizations <= {organization}
    assert found.returning is ("RETURNING" in HARMLESS_CHANGES[what])


@pytest.mark.parametrize(
    ("sql", "reads", "writes"),
    [
        ("SELECT * FROM addon_orders.invoices", ["addon_orders.invoices"], []),
        ("SELECT 1 FROM notes, addon_a.x JOIN addon_b.y ON true", ["addon_a.x", "addon_b.y"], []),
        ("SELECT (SELECT max(v) FROM addon_a.x)", ["addon_a.x"], []),
        ("WITH x AS (SELECT * FROM addon_a.x) SELECT * FROM x", ["addon_a.x"], []),
        ("SELECT email FROM users", ["users"], []),
        ("SELECT email FROM PUBLIC.users", ["users"], []),
        ("SELECT 1 FROM metacore_journal", ["metacore_journal"], []),
        ("UPDATE addon_a.x SET v = 1", [], ["addon_a.x"]),
        ("UPDATE addon_a.x SET v = (SELECT v FROM addon_a.x)", ["addon_a.x"], ["addon_a.x"]),
        ("DELETE FROM notes USING addon_a.x", ["addon_a.x"], []),
        ("INSERT INTO addon_a.x SELECT * FROM addon_b.y", ["addon_b.y"], ["addon_a.x"]),
        ("INSERT INTO notes (title) VALUES ('x') RETURNING (SELECT v FROM addon_a.x)", ["addon_a.x"], []),
        ("MERGE INTO addon_a.x USING addon_b.y ON true WHEN MATCHED THEN DELETE", ["addon_b.y"], ["addon_a.x"]),
        ("MERGE INTO notes USING (SELECT * FROM users) u ON true WHEN MATCHED THEN DO NOTHING", ["users"], []),
        ("WITH addon AS (SELECT * FROM users) UPDATE notes SET rank = 1 FROM addon", ["users"], []),
    ],
)
def test_what_is_read_and_what_is_written(sql: str, reads: list[str], writes: list[str]) -> None:
    assert targets(judged(sql, writing=not sql.startswith(("SELECT", "WITH x")))) == (reads, writes)


def test_a_cte_hides_a_table_only_where_it_is_in_scope() -> None:
    assert targets(judged("WITH users AS (SELECT 1) SELECT * FROM users")) == ([], [])
    assert targets(judged("WITH users AS (SELECT * FROM users) SELECT * FROM users")) == (["users"], [])
    assert targets(judged("WITH RECURSIVE users AS (SELECT 1 UNION SELECT * FROM users) TABLE users")) == ([], [])
    assert targets(judged("SELECT (WITH users AS (SELECT 1) SELECT 1 FROM users) FROM users")) == (["users"], [])
    assert targets(judged("WITH users AS (SELECT 1) SELECT * FROM public.users")) == (["users"], [])
    # What is changed is never a CTE.
    assert targets(judged("WITH users AS (SELECT 1) DELETE FROM users", writing=True)) == ([], ["users"])


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT 1 FROM "addon_cellar" . barrels, addon_cellar.barrels b /* addon_cellar.barrels */',
        "/* é🙂 */ SELECT '🙂' FROM addon_cellar\n.\nbarrels",
        'SELECT 1 FROM U&"addon_cell\\0061r".barrels',
    ],
)
def test_places_where_a_schema_is_spelled_are_found(sql: str) -> None:
    found = judged(sql)
    text = found.sql
    for place in reversed(found.schemas):
        assert place.schema == "addon_cellar"
        text = text[: place.start] + "here" + text[place.end :]
    again = judged(text.replace("here", "addon_there"))
    assert targets(again) == (["addon_there.barrels"], [])


def test_the_addons_own_schema_goes_by_both_of_its_names() -> None:
    for schema in ("addon_notes", PHYSICAL):
        found = judged(f"SELECT 1 FROM {schema}.notes")
        assert targets(found) == ([], [])
        assert [place.schema for place in found.schemas] == [schema]
    assert targets(judged("SELECT 1 FROM addon_notes_11111111.notes")) == (["addon_notes_11111111.notes"], [])


def test_only_the_statement_itself_is_kept() -> None:
    assert judged(" -- before\n SELECT 1 ; -- after").sql.strip() == "SELECT 1"
    assert judged("SELECT $2::text, $1::int").arguments == 2


def test_columns_are_told_with_what_stands_before_them() -> None:
    found = judged("SELECT a.title, rank, b.*, * FROM notes a JOIN addon_x.y AS b USING (code)")
    expected = {("a", "title"), ("", "rank"), ("b", "*"), ("", "*"), ("", "code")}
    assert found.mentions == {Mention(*pair) for pair in expected}
    assert found.aliases == {("notes", "a"), ("addon_x.y", "b")}
    found = judged("UPDATE notes SET title = rank", writing=True)
    assert found.mentions == {Mention("", "title", written=True), Mention("", "rank")}


def test_values_that_a_rows_organization_is_compared_with_are_told() -> None:
    sql = "DELETE FROM notes n WHERE n.organization_id = $2 OR 'a' = organization_id OR organization_id IN ($3, 'b')"
    found = judged(sql + " OR organization_id = 'c'::text::uuid OR title = $1", writing=True)
    assert found.organization_arguments == {2, 3}
    assert found.organizations == {"a", "b", "c"}


def test_only_what_migrations_may_call_is_ever_on_the_list_of_guests() -> None:
    assert rules.FUNCTIONS < sql_rules.FUNCTIONS
    assert rules.TYPES < sql_rules.BUILTIN_TYPES
    assert not any(name.startswith(("pg_", "lo_", "metacore_", "dblink", "has_", "txid_")) for name in rules.FUNCTIONS)
    assert not any(name.startswith(("reg", "pg_", "acl")) or name in {"oid", "xid", "tid"} for name in rules.TYPES)
    assert not rules.FUNCTIONS & {"set_config", "current_setting", "nextval", "setval", "query_to_xml", "pg_sleep"}


@pytest.mark.parametrize("writing", [False, True])
def test_a_refusal_has_a_code_and_a_reason(writing: bool) -> None:
    with pytest.raises(Refused) as refusal:
        judged("VACUUM notes", writing=writing)
    assert refusal.value.code == HostCode.INVALID_SQL
    assert "VACUUM" in refusal.value.reason
    assert ("db_exec" if writing else "db_query") in refusal.value.reason
