"""What a guest's SQL answers, in which form, within which limits, and what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import decimal
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest
from sqlalchemy import text
from tests.conftest import DatabaseUrls
from tests.fixtures.sessions import session_leaks
from tests.guest_world import GuestWorld, guest_world, parsed

from metacore.addons.guest_context import GuestTransaction
from metacore.db.database import Database
from metacore.guest_sql import execute
from metacore.guest_sql.execute import GuestSql
from metacore.wasm.abi import HostCode
from metacore.wasm.host_functions import FUNCTIONS, _encode
from metacore.wasm.limits import MAX_HOST_REPLY_BYTES
from metacore.wasm.ports import HostError, HostReply

BUSY = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
"""About as slow as it gets without sleeping."""


@pytest.fixture
async def world(owner_db: Database, kernel_db: Database) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=False) as made:
        yield made


# -- replies


async def test_a_query_answers_with_rows_columns_and_meta(world: GuestWorld) -> None:
    reply = await world.query("SELECT title, rank, 1.5::numeric AS share FROM notes")
    assert isinstance(reply, HostReply)
    assert parsed(reply) == {
        "rows": [{"title": "acme note", "rank": 1, "share": 1.5}],
        "rowCount": 1,
        "columns": [
            {"name": "title", "type": "varchar"},
            {"name": "rank", "type": "int4"},
            {"name": "share", "type": "numeric"},
        ],
    }
    assert reply.meta is not None
    assert (reply.meta["schema"], reply.meta["truncated"]) == ("addon_notes", False)
    assert 0 < reply.meta["durationMs"] < 5_000


async def test_nothing_found_is_an_empty_list_with_columns(world: GuestWorld) -> None:
    reply = await world.query("SELECT title FROM notes WHERE false")
    assert isinstance(reply, HostReply)
    assert parsed(reply) == {"rows": [], "rowCount": 0, "columns": [{"name": "title", "type": "varchar"}]}


TYPES = (
    ("NULL", None, "text"),
    ("true", True, "bool"),
    ("9223372036854775807", 2**63 - 1, "int8"),
    ("12345678901234567890.123456789", decimal.Decimal("12345678901234567890.123456789"), "numeric"),
    ("'NaN'::numeric", "NaN", "numeric"),
    ("0.1::float8", 0.1, "float8"),
    ("'Infinity'::float8", "Infinity", "float8"),
    ("'é🙂\"\\'", 'é🙂"\\', "text"),
    ("'2026-01-02'::date", "2026-01-02", "date"),
    ("'2026-01-02 03:04:05.678+02'::timestamptz", "2026-01-02T01:04:05.678+00:00", "timestamptz"),
    ("'2026-01-02 03:04:05'::timestamp", "2026-01-02T03:04:05", "timestamp"),
    ("'infinity'::timestamptz", "infinity", "timestamptz"),
    ("'03:04'::time", "03:04:00", "time"),
    ("'1 day 2 hours'::interval", "1 day 02:00:00", "interval"),
    ("'0b0c0d0e-0000-4000-8000-000000000001'::uuid", "0b0c0d0e-0000-4000-8000-000000000001", "uuid"),
    ("'\\xdeadbeef'::bytea", "\\xdeadbeef", "bytea"),
    ("'{\"b\": [1, null]}'::jsonb", {"b": [1, None]}, "jsonb"),
    ("'[1, 2]'::json", [1, 2], "json"),
    ("ARRAY[[1, 2], [3, 4]]", [[1, 2], [3, 4]], "int4[]"),
    ("ARRAY['a', NULL]", ["a", None], "text[]"),
    ("ROW(1, 'a')", {"f1": 1, "f2": "a"}, "record"),
    ("'good'::mood", "good", "mood"),
    ("int4range(1, 5)", "[1,5)", "int4range"),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8", "cidr"),
    ("'(1,2)'::point", "(1,2)", "point"),
    ("B'101'", "101", "bit"),
    ("to_tsvector('english', 'a cat')", "'cat':2", "tsvector"),
)


async def test_every_type_becomes_json(world: GuestWorld) -> None:
    expected: object
    for expression, expected, kind in TYPES:
        reply = await world.query(f"SELECT {expression} AS v")
        assert isinstance(reply, HostReply), reply
        data = json.loads(orjson.dumps(reply.data), parse_float=decimal.Decimal)
        if isinstance(expected, float):
            expected = decimal.Decimal(repr(expected))
        assert data["rows"] == [{"v": expected}]
        assert data["columns"] == [{"name": "v", "type": kind}]


async def test_a_change_tells_what_it_did(world: GuestWorld) -> None:
    changed = await world.changed(
        "INSERT INTO notes (organization_id, title) VALUES ($1, 'a'), ($1, 'b') RETURNING id, title",
        {"$uuid": str(world.acme)},
    )
    assert changed["rowsAffected"] == 2
    assert [row["title"] for row in changed["returning"]] == ["a", "b"]
    assert changed["lastInsertId"] == changed["returning"][1]["id"]
    assert changed["columns"] == [{"name": "id", "type": "uuid"}, {"name": "title", "type": "varchar"}]
    changed = await world.changed("UPDATE notes SET rank = 5 WHERE title <> 'a'")
    assert changed == {"rowsAffected": 2, "lastInsertId": None, "returning": [], "columns": []}
    assert (await world.changed("DELETE FROM notes WHERE rank = 99"))["rowsAffected"] == 0
    assert (await world.changed("DELETE FROM notes WHERE rank = 5 RETURNING title"))["rowsAffected"] == 2


async def test_a_change_names_the_transaction_that_it_is_part_of(world: GuestWorld) -> None:
    async with world.transaction() as transaction:
        numbers = []
        for _ in range(2):
            reply = await world.sql.execute(world.call(transaction), "UPDATE notes SET rank = 2", [])
            assert isinstance(reply, HostReply)
            assert reply.meta is not None
            numbers.append(reply.meta["txId"])
        current = await transaction.connection.scalar(text("SELECT pg_current_xact_id()::text"))
    assert numbers == [current, current]


# -- arguments


async def test_each_kind_of_argument_arrives(world: GuestWorld) -> None:
    row = (
        await world.rows(
            "SELECT $1::text IS NULL AS n, $2::bool AS b, $3::int8 AS i, $4::float8 AS f, $5::text AS t,"
            " encode($6::bytea, 'hex') AS x, $7::uuid AS u, $8::timestamptz AS at, $9::numeric AS d",
            None,
            True,
            2**62,
            0.25,
            "é",
            {"$bytes": base64.b64encode(b"\x00\xff").decode()},
            {"$uuid": "0b0c0d0e-0000-4000-8000-000000000001"},
            {"$ts": "2026-01-02T03:04:05+02:00"},
            0.1,
        )
    )[0]
    assert row == {
        "n": True,
        "b": True,
        "i": 2**62,
        "f": 0.25,
        "t": "é",
        "x": "00ff",
        "u": "0b0c0d0e-0000-4000-8000-000000000001",
        "at": "2026-01-02T01:04:05+00:00",
        "d": 0.1,
    }


async def test_arguments_take_the_type_of_their_place(world: GuestWorld) -> None:
    inserted = await world.changed(
        "INSERT INTO notes (organization_id, title, amount, rank, done, due_at, meta)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING title, amount, rank, done, due_at, meta",
        str(world.acme),
        "text",
        12,
        3,
        False,
        {"$ts": "2026-05-06T07:08:09Z"},
        '{"a": [1]}',
    )
    assert inserted["returning"] == [
        {
            "title": "text",
            "amount": 12.0,
            "rank": 3,
            "done": False,
            "due_at": "2026-05-06T07:08:09+00:00",
            "meta": {"a": [1]},
        }
    ]
    day = await world.changed(
        "INSERT INTO days (organization_id, day, mood) VALUES ($1, $2, $3) RETURNING day, mood",
        {"$uuid": str(world.acme)},
        "2026-02-03",
        "bad",
    )
    assert day["returning"] == [{"day": "2026-02-03", "mood": "bad"}]
    assert await world.rows("SELECT title FROM notes WHERE meta @> $1 AND due_at > $2", '{"a": [1]}', "2026-05-06") == [
        {"title": "text"}
    ]


OWN_TYPES: tuple[tuple[str, list[Any], Any, str], ...] = (
    ("$1", [7], 7, "int8"),
    ("$1", [True], True, "bool"),
    ("$1", [0.5], 0.5, "float8"),
    ("$1", ["x"], "x", "text"),
    ("$1", [{"$bytes": "aGk="}], "\\x6869", "bytea"),
    ("$1", [{"$ts": "2026-01-02T03:04:05Z"}], "2026-01-02T03:04:05+00:00", "timestamptz"),
    ("$1 + $2", [2**40, 1], 2**40 + 1, "int8"),
    ("$1::text", [5], "5", "text"),
    (
        "'é' || jsonb_build_object('n', $1, 's', $2, 'o', $3)::text",
        [1, "a", None],
        'é{"n": 1, "o": null, "s": "a"}',
        "text",
    ),
    ("concat($1, '-', $2)", ["a", 2.5], "a-2.5", "text"),
    (
        "concat($1, n.rank) AS a FROM notes AS n WHERE n.organization_id = $2 AND n.rank = $3",
        ["r", "{acme}", 1],
        "r1",
        "text",
    ),
    ("left('abc', $1) || $2 || concat($3)", [2, "-", None], "ab-", "text"),
    ("(ARRAY[$1, $1])[1]", [3], 3, "int8"),
    (
        "count(*) + $1 AS a FROM addon_notes.notes AS n WHERE $2 OR concat(n.title, $3) = 'acme note1'",
        [1, False, 1],
        2,
        "int8",
    ),
)
"""Places that say nothing, with arguments that then have their own types (contract 12)."""


async def test_a_place_that_says_nothing_takes_the_arguments_own_type(world: GuestWorld) -> None:
    for sql, given, value, kind in OWN_TYPES:
        args = [str(world.acme) if each == "{acme}" else each for each in given]
        for _ in range(2):  # The second time it is known that the types must be said.
            reply = await world.query(f"SELECT {sql}" if " AS a " in sql else f"SELECT {sql} AS a", *args)
            assert isinstance(reply, HostReply), (sql, reply)
            found = parsed(reply)
            assert (found["rows"][0]["a"], found["columns"]) == (value, [{"name": "a", "type": kind}]), sql


async def test_what_no_type_helps_is_told_as_it_was(world: GuestWorld) -> None:
    refusal = await world.refused("SELECT coalesce($1, 'x')", 5)
    assert (refusal.code, refusal.sqlstate) == (HostCode.ARG_DECODE, "")
    refusal = await world.refused("SELECT $1 + $2", "a", "b")
    assert (refusal.code, refusal.sqlstate) == (HostCode.INVALID_SQL, "42725")


async def test_own_types_in_a_change(world: GuestWorld) -> None:
    sql = "UPDATE notes SET title = concat($1, ' of ', $2) WHERE title = $3 RETURNING title"
    assert (await world.changed(sql, 2, 7, "acme note"))["returning"] == [{"title": "2 of 7"}]
    reply = await world.execute("UPDATE notes SET title = concat($1, ' of ', $2)", 3, 8)
    assert isinstance(reply, HostReply)
    assert parsed(reply)["rowsAffected"] == 1


MISFITS = (
    ("SELECT $1::int4", [2**31], "argument 1 is an integer"),
    ("SELECT $1::int8", [2**63], "argument 1 does not fit"),
    ("SELECT $1::int8", [1.5], "argument 1 is a float"),
    ("SELECT $1::int8", ["1"], "argument 1 is a string"),
    ("SELECT $1::int8", [True], "argument 1 is a bool"),
    ("SELECT 1 FROM notes WHERE title = $1", [5], "argument 1 is an integer; its place in the statement takes"),
    ("SELECT lower($1)", [5], "argument 1 is an integer; its place in the statement takes text"),
    ("SELECT $1::bool", [1], "argument 1 is an integer"),
    ("SELECT $1::uuid", ["nonsense"], "argument 1 is a string; its place in the statement takes uuid"),
    ("SELECT $1::timestamptz", ["tomorrow"], "timestamptz"),
    ("SELECT $1::date", [{"$uuid": "0b0c0d0e-0000-4000-8000-000000000001"}], "$uuid"),
    ("SELECT $1::jsonb", ["{"], "no JSON text"),
    ("SELECT $1::interval", [5], "interval"),
    ("SELECT $1::text, $2::text", ["a", "b\x00c"], "argument 2 holds a NUL"),
    ("SELECT $1::text", [["a"]], "argument 1 must be"),
    ("SELECT $1::text", [{"a": 1}], "argument 1 must be"),
    ("SELECT $1::text", [{"$uuid": "x", "$ts": "y"}], "argument 1 must be"),
    ("SELECT $1::bytea", [{"$bytes": "no base64!"}], "$bytes"),
    ("SELECT $1::uuid", [{"$uuid": "x"}], "$uuid"),
    ("SELECT $1::timestamptz", [{"$ts": "2026-01-02T03:04:05"}], "$ts"),
    ("SELECT $1::timestamptz", [{"$ts": 5}], "argument 1 must be"),
    ("SELECT 'good'::mood = $1", [5], "mood"),
)


async def test_an_argument_that_does_not_fit_is_named_and_never_shown(world: GuestWorld) -> None:
    args: list[Any]
    for sql, args, words in MISFITS:
        refusal = await world.refused(sql, *args)
        assert refusal.code == HostCode.ARG_DECODE, refusal
        assert words in refusal.message
        assert "nonsense" not in refusal.message


async def test_as_many_arguments_as_the_statement_asks_for(world: GuestWorld) -> None:
    for args in ((), ("a", "b"), ("a", None, None)):
        refusal = await world.refused("SELECT $1::text WHERE $1 <> ''", *args)
        assert refusal.code == HostCode.ARG_COUNT_MISMATCH
        assert f"takes 1 arguments, {len(args)} were given" in refusal.message
    assert (await world.refused("SELECT $2::text", "a", "b")).code == HostCode.INVALID_SQL


# -- errors


BROKEN = (
    ("SELECT nothing FROM notes", HostCode.INVALID_SQL, "42703", "nothing"),
    ("SELECT lower(1)", HostCode.INVALID_SQL, "42883", "lower"),
    ("SELECT title + 1 FROM notes", HostCode.INVALID_SQL, "42883", "operator"),
    ("SELECT title, count(*) FROM notes", HostCode.INVALID_SQL, "42803", "GROUP BY"),
    ("SELECT 1 / (rank - 1) FROM notes", HostCode.DB_ERROR, "22012", "division by zero"),
    ("SELECT title::int FROM notes", HostCode.DB_ERROR, "22P02", "integer"),
    ("SELECT * FROM addon_orders.absent", HostCode.INVALID_SQL, "42P01", "absent"),
)


async def test_what_postgresql_refuses_is_told(world: GuestWorld) -> None:
    for sql, code, sqlstate, words in BROKEN:
        refusal = await world.refused(sql)
        assert (refusal.code, refusal.sqlstate) == (code, sqlstate)
        assert words in refusal.message
        assert "metacore row" not in refusal.message


async def test_a_broken_rule_of_a_table_is_told_with_its_sqlstate_and_without_values(world: GuestWorld) -> None:
    insert = "INSERT INTO notes (organization_id, id, title) VALUES ($1, $1, 'secret words')"
    own = {"$uuid": str(world.acme)}
    await world.changed(insert, own)
    refusal = await world.not_changed(insert, own)
    assert (refusal.code, refusal.sqlstate) == (HostCode.CONSTRAINT_VIOLATION, "23505")
    assert str(world.acme) not in refusal.message
    refusal = await world.not_changed(
        "INSERT INTO notes (organization_id, id, title) VALUES ($1, NULL, 'secret words')", own
    )
    assert (refusal.code, refusal.sqlstate) == (HostCode.CONSTRAINT_VIOLATION, "23502")
    assert '"id"' in refusal.message
    assert "secret words" not in refusal.message


async def test_a_lock_held_by_others_ends_in_a_timeout_and_a_deadlock_in_a_serialization_failure(
    world: GuestWorld,
) -> None:
    own = {"$uuid": str(world.acme)}
    await world.changed("INSERT INTO notes (organization_id, title) VALUES ($1, 'second')", own)
    first, second = (
        "UPDATE notes SET rank = 9 WHERE title = 'acme note'",
        "UPDATE notes SET rank = 9 WHERE title = 'second'",
    )
    async with world.transaction() as one, world.transaction() as two:
        assert isinstance(await world.sql.execute(world.call(one), first, []), HostReply)
        refusal = await world.sql.execute(world.call(two, seconds=0.2), first, [])
        assert isinstance(refusal, HostError)
        assert refusal.code == HostCode.QUERY_TIMEOUT
        assert isinstance(await world.sql.execute(world.call(two), second, []), HostReply)
        replies = await asyncio.gather(
            world.sql.execute(world.call(one), second, []), world.sql.execute(world.call(two), first, [])
        )
        # PostgreSQL lets one of them go on, or both wait for each other's transaction until their time is up.
        codes = [reply.code for reply in replies if isinstance(reply, HostError)]
        assert HostCode.SERIALIZATION_FAILURE in codes, replies
        assert not one.failed
        assert not two.failed


# -- limits


async def test_rows_beyond_the_limit_are_left_out_and_told(world: GuestWorld) -> None:
    reply = await world.query("SELECT n FROM generate_series(1, 10000) AS n")
    assert isinstance(reply, HostReply)
    assert reply.meta is not None
    assert (parsed(reply)["rowCount"], reply.meta["truncated"]) == (10_000, False)
    reply = await world.query("SELECT n FROM generate_series(1, 10002) AS n")
    assert isinstance(reply, HostReply)
    assert reply.meta is not None
    data = parsed(reply)
    assert (data["rowCount"], reply.meta["truncated"]) == (10_000, True)
    assert [row["n"] for row in data["rows"]] == list(range(1, 10_001))


async def test_a_change_that_returns_too_many_rows_is_taken_back(world: GuestWorld) -> None:
    own = {"$uuid": str(world.acme)}
    insert = "INSERT INTO notes (organization_id, rank) SELECT $1, n FROM generate_series(1, 10001) AS n"
    refusal = await world.not_changed(f"{insert} RETURNING rank", own)
    assert refusal.code == HostCode.ROW_LIMIT_EXCEEDED
    assert len(await world.rows("SELECT 1 FROM notes")) == 1
    assert (await world.changed(insert, own))["rowsAffected"] == 10_001


async def test_more_bytes_than_a_reply_holds_are_refused(world: GuestWorld) -> None:
    for sql in (
        "SELECT repeat('x', 9000000) AS v",
        "SELECT repeat('x', 5000000) AS v FROM generate_series(1, 2)",
        "SELECT repeat('x', 2000) AS v FROM generate_series(1, 9000)",
        "SELECT repeat(E'\\n', 4300000) AS v",
    ):
        assert (await world.refused(sql)).code == HostCode.PAYLOAD_TOO_LARGE, sql


async def test_the_largest_reply_fits_the_envelope(world: GuestWorld) -> None:
    row = len('{"v":""},')
    reply = await world.query(f"SELECT repeat('x', {execute.MAX_ROW_BYTES - row}) AS v")
    assert isinstance(reply, HostReply), reply
    spec = next(spec for spec in FUNCTIONS if spec.name == "db_query")
    envelope = orjson.loads(_encode(spec, reply))
    assert envelope["success"] is True
    assert len(orjson.dumps(envelope)) <= MAX_HOST_REPLY_BYTES


async def test_a_statement_ends_when_the_time_of_its_guest_is_up(world: GuestWorld) -> None:
    reply = await world.sql.query(world.call(seconds=0.1), BUSY, [])
    assert isinstance(reply, HostError)
    assert reply.code == HostCode.QUERY_TIMEOUT
    reply = await world.sql.query(world.call(seconds=0.0), "SELECT 1", [])
    assert isinstance(reply, HostError)
    assert reply.code == HostCode.QUERY_TIMEOUT
    async with world.transaction() as transaction:
        reply = await world.sql.execute(world.call(transaction, seconds=0.1), f"UPDATE notes SET rank = ({BUSY})", [])
        assert isinstance(reply, HostError)
        assert reply.code == HostCode.QUERY_TIMEOUT
        assert not transaction.failed


async def test_a_statement_has_five_seconds_at_most(world: GuestWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute.MAX_SECONDS == 5.0
    monkeypatch.setattr(execute, "MAX_SECONDS", 0.1)
    assert (await world.refused(BUSY)).code == HostCode.QUERY_TIMEOUT


async def test_no_free_connection_is_a_timeout_as_well(database_urls: DatabaseUrls, world: GuestWorld) -> None:
    narrow = await Database.connect(database_urls.kernel, pool_size=1)
    try:
        sql = GuestSql(narrow, world.registry, world.enforcer)
        assert isinstance(await sql.query(world.call(), "SELECT 1", []), HostReply)
        async with narrow.postgres.acquire():
            reply = await sql.query(world.call(seconds=0.1), "SELECT 1", [])
        assert isinstance(reply, HostError)
        assert reply.code == HostCode.QUERY_TIMEOUT
        assert isinstance(await sql.query(world.call(), "SELECT 1", []), HostReply)
    finally:
        await narrow.close()


# -- transactions


async def test_a_change_needs_the_transaction_of_an_action(world: GuestWorld) -> None:
    reply = await world.sql.execute(world.call(), "UPDATE notes SET rank = 1", [])
    assert isinstance(reply, HostError)
    assert reply.code == HostCode.NO_ACTIVE_TX
    async with world.kernel.transaction(world.acme) as connection:
        over = GuestTransaction(connection)
    async with world.kernel.engine.connect() as connection:
        for dead in (GuestTransaction(connection), GuestTransaction(connection, failed=True), over):
            reply = await world.sql.execute(world.call(dead), "UPDATE notes SET rank = 1", [])
            assert isinstance(reply, HostError)
            assert reply.code == HostCode.NO_ACTIVE_TX


async def test_a_query_sees_what_its_own_transaction_changed_and_nobody_else_does(world: GuestWorld) -> None:
    async with world.transaction() as transaction:
        call = world.call(transaction)
        assert isinstance(await world.sql.execute(call, "UPDATE notes SET rank = 77", []), HostReply)
        inside = await world.sql.query(call, "SELECT rank FROM notes", [])
        assert isinstance(inside, HostReply)
        assert parsed(inside)["rows"] == [{"rank": 77}]
        assert await world.rows("SELECT rank FROM notes") == [{"rank": 1}]
        # A query cannot write, even where a function of the addon would.
        assert isinstance(await world.sql.execute(call, "UPDATE notes SET rank = 78", []), HostReply)
    assert await world.rows("SELECT rank FROM notes") == [{"rank": 78}]


async def test_a_failed_statement_costs_its_own_changes_only(world: GuestWorld) -> None:
    own = {"$uuid": str(world.acme)}
    async with world.transaction() as transaction:
        call = world.call(transaction)
        insert = "INSERT INTO notes (organization_id, rank) SELECT $1, 10 / n FROM unnest(ARRAY[1, 2, 0]) AS n"
        kept = "INSERT INTO notes (organization_id, rank) VALUES ($1, 5)"
        assert isinstance(await world.sql.execute(call, kept, [own]), HostReply)
        assert isinstance(await world.sql.execute(call, insert, [own]), HostError)
        assert isinstance(await world.sql.query(call, "SELECT 1 / 0", []), HostError)
        assert isinstance(await world.sql.execute(call, kept, [own]), HostReply)
    assert await world.rows("SELECT rank FROM notes ORDER BY rank") == [{"rank": 1}, {"rank": 5}, {"rank": 5}]


async def test_a_transaction_that_rolls_back_takes_the_changes_of_its_guest_along(world: GuestWorld) -> None:
    with pytest.raises(RuntimeError):
        async with world.transaction() as transaction:
            await world.sql.execute(world.call(transaction), "DELETE FROM notes", [])
            raise RuntimeError
    assert len(await world.rows("SELECT 1 FROM notes")) == 1


STATE = text(
    "SELECT current_user::text, session_user::text, current_setting('search_path'), current_setting('timezone'),"
    " current_setting('statement_timeout'), current_setting('transaction_read_only'),"
    " current_setting('app.current_org')"
)


STATEMENTS = (
    ("UPDATE notes SET rank = 3", True),
    ("UPDATE notes SET rank = 3 RETURNING id", True),
    ("UPDATE notes SET rank = 1 / (rank - rank)", True),
    ("UPDATE notes SET organization_id = NULL", True),
    ("DELETE FROM addon_orders.safes", True),
    ("SELECT title FROM notes", False),
    ("SELECT 1 / 0", False),
    ("SELECT nothing", False),
    ("SELECT a FROM accounts a", False),
)


async def test_an_actions_transaction_comes_back_as_it_was(world: GuestWorld) -> None:
    for sql, writing in STATEMENTS:
        async with world.transaction() as transaction:
            before = (await transaction.connection.execute(STATE)).one()
            run = world.sql.execute if writing else world.sql.query
            await run(world.call(transaction), sql, [])
            assert (await transaction.connection.execute(STATE)).one() == before
            # The kernel's own statements go on, on tables that no guest may see.
            await transaction.connection.execute(text("UPDATE organizations SET name = name"))
            assert not transaction.failed
            assert not transaction.lock.locked()
        assert await session_leaks(world.kernel) == []


async def test_calls_of_one_guest_wait_for_each_other(world: GuestWorld) -> None:
    async with world.transaction() as transaction:
        call = world.call(transaction)
        replies = await asyncio.gather(
            *(world.sql.execute(call, "UPDATE notes SET rank = rank + 1", []) for _ in range(10)),
            *(world.sql.query(call, "SELECT rank FROM notes", []) for _ in range(10)),
        )
        assert all(isinstance(reply, HostReply) for reply in replies), replies
    assert await world.rows("SELECT rank FROM notes") == [{"rank": 11}]


async def test_many_guests_at_once_stay_apart_and_leave_their_connections_clean(world: GuestWorld) -> None:
    async def one(number: int) -> None:
        organization, name = ((world.acme, "acme"), (world.globex, "globex"))[number % 2]
        if number % 5 == 0:
            await world.query("SELECT 1 / 0", organization=organization)
        elif number % 7 == 0:
            await world.sql.query(world.call(seconds=0.05), BUSY, [])
        else:
            rows = await world.rows("SELECT title FROM notes", organization=organization)
            assert rows == [{"title": f"{name} note"}]

    await asyncio.gather(*(one(number) for number in range(60)))
    assert await session_leaks(world.kernel) == []


async def started(database_urls: DatabaseUrls, task: asyncio.Task[Any]) -> None:
    """Return when the database runs a guest's BUSY statement."""
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        running = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND datname = current_database() AND strpos(query, 'generate_series(1, 100000)') > 0)"
        )
        async with asyncio.timeout(30):
            while not await admin.fetchval(running):
                assert not task.done()
                await asyncio.sleep(0.01)
    finally:
        await admin.close()


async def test_a_cancelled_query_leaves_nothing_and_nobody_behind(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    task = asyncio.create_task(world.sql.query(world.call(), BUSY, []))
    await started(database_urls, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await session_leaks(world.kernel) == []
    assert await world.rows("SELECT 1 AS v") == [{"v": 1}]


async def test_a_change_that_is_cancelled_leaves_the_transaction_usable(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    async with world.transaction() as transaction:
        slow = f"UPDATE notes SET rank = ({BUSY})"
        task = asyncio.create_task(world.sql.execute(world.call(transaction), slow, []))
        await started(database_urls, task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not transaction.failed
        assert isinstance(await world.sql.execute(world.call(transaction), "UPDATE notes SET rank = 4", []), HostReply)
    assert await world.rows("SELECT rank FROM notes") == [{"rank": 4}]
    assert await session_leaks(world.kernel) == []


async def test_a_connection_that_dies_under_a_guest_fails_its_transaction_and_no_other(
    world: GuestWorld, database_urls: DatabaseUrls
) -> None:
    admin = await asyncpg.connect(database_urls.superuser)
    try:
        with pytest.raises(Exception, match=r".*"):
            async with world.transaction() as transaction:
                number = await transaction.connection.scalar(text("SELECT pg_backend_pid()"))
                await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", number)
                reply = await world.sql.execute(world.call(transaction), "UPDATE notes SET rank = 1", [])
                assert isinstance(reply, HostError)
                assert reply.code == HostCode.DB_ERROR
                assert transaction.failed
        assert await world.rows("SELECT 1 AS v") == [{"v": 1}]
    finally:
        await admin.close()


# -- other databases


async def test_sqlite_says_that_it_cannot(sqlite_db: Database, world: GuestWorld) -> None:
    sql = GuestSql(sqlite_db, world.registry, world.enforcer)
    for run in (sql.query, sql.execute):
        reply = await run(world.call(), "SELECT 1", [])
        assert isinstance(reply, HostError)
        assert reply.code == HostCode.DB_ERROR
        assert "PostgreSQL" in reply.message
