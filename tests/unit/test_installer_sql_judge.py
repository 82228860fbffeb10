"""What SQL an addon may run, decided before any of it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from tests.hostile_sql import HARMLESS, HOSTILE, SETUP

from metacore.db.catalog import StoredColumn, StoredTable
from metacore.errors import MigrationRefused
from metacore.installer.sql_effects import predict
from metacore.installer.sql_fresh import Fresh
from metacore.installer.sql_migrations import judge
from metacore.installer.sql_names import Names
from metacore.orm.tables import metadata

RESERVED = frozenset(metadata.tables)


@dataclass(frozen=True)
class File:
    sql: str
    version: str = "0001"
    name: str = "first"
    path: str = "migrations/0001_first.sql"
    checksum: str = "0" * 64


def names(tables: Iterable[str] = (), types: Iterable[str] = ()) -> Names:
    return Names(tables=set(tables), types=set(types), reserved=RESERVED)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_sql_is_refused(what: str) -> None:
    with pytest.raises(MigrationRefused) as refusal:
        judge([File(SETUP + HOSTILE[what])], names())
    assert all(problem.field.startswith("migrations/0001_first.sql:") for problem in refusal.value.problems)
    # The setup itself is fine: what is refused stands after it.
    assert not any(problem.field.endswith(".sql:1") for problem in refusal.value.problems)


@pytest.mark.parametrize("what", HARMLESS)
def test_sql_of_real_addons_passes(what: str) -> None:
    judge([File(HARMLESS[what])], names())


def test_a_refusal_names_file_line_statement_and_reason() -> None:
    sql = (
        "CREATE TABLE a (id int);\n\n-- next\nCREATE TABLE b (\n  leak text DEFAULT pg_read_file('x')\n);\nRESET ROLE;"
    )
    with pytest.raises(MigrationRefused) as refusal:
        judge([File(sql)], names())
    assert [(problem.field, problem.message) for problem in refusal.value.problems] == [
        (
            "migrations/0001_first.sql:5",
            "CREATE TABLE: function 'pg_read_file' is not on the list of functions that migrations may call",
        ),
        ("migrations/0001_first.sql:7", "SET: settings of the session and the role belong to the kernel"),
    ]
    assert refusal.value.message.startswith("migrations/0001_first.sql:5: CREATE TABLE: ")


def test_lines_are_right_behind_characters_of_many_bytes() -> None:
    with pytest.raises(MigrationRefused) as refusal:
        judge([File("-- 🙂 naïve ✓\nCREATE TABLE a (id int);\nSELECT '🙂🙂🙂';\nRESET ROLE")], names())
    assert [problem.field for problem in refusal.value.problems] == ["migrations/0001_first.sql:4"]


def test_statements_are_cut_where_the_parser_cuts_them() -> None:
    sql = "-- 🙂;\nCREATE TABLE t (id int, x uuid);\n\n  INSERT INTO t VALUES (1);SELECT $x$a;b$x$ ; -- end"
    (migration,) = judge([File(sql)], names())
    assert [(statement.line, statement.sql) for statement in migration.statements] == [
        (2, "CREATE TABLE t (id int, x uuid)"),
        (4, "INSERT INTO t VALUES (1)"),
        (4, "SELECT $x$a;b$x$"),
    ]


def test_names_made_by_one_migration_are_known_to_the_next() -> None:
    second = File("ALTER TABLE t ADD COLUMN b int", "0002", "second", "migrations/0002_second.sql")
    judge([File("CREATE TABLE t (id int)"), second], names())
    with pytest.raises(MigrationRefused, match="'t' is not a table"):
        judge([second], names())
    judge([second], names(tables={"t"}))


def test_a_judgement_leaves_the_known_names_alone() -> None:
    known = names(tables={"old"})
    judge([File("CREATE TABLE t (id int); DROP TABLE old")], known)
    assert known.tables == {"old"}


def test_an_own_function_may_not_share_a_name_with_one_outside() -> None:
    sql = "CREATE FUNCTION dblink(a int) RETURNS int LANGUAGE sql RETURN a"
    judge([File(sql)], names())
    with pytest.raises(MigrationRefused, match="exists outside the addon"):
        judge([File(sql)], Names(reserved=RESERVED, taken_functions=frozenset({"dblink"})))


def test_lost_data_is_reported_with_its_place() -> None:
    sql = "CREATE TABLE t (id int, a text);\nALTER TABLE t DROP COLUMN a;\nDELETE FROM t;\nDROP TABLE t;"
    (migration,) = judge([File(sql)], names())
    assert migration.risks == (
        "migrations/0001_first.sql:2 drops column t.a and its values",
        "migrations/0001_first.sql:3 deletes rows of t",
        "migrations/0001_first.sql:4 drops table t and its rows",
    )


def test_rows_that_go_by_the_way_are_reported_too() -> None:
    sql = (
        "CREATE TABLE t (id int);\n"
        "WITH gone AS (DELETE FROM t RETURNING id) SELECT id FROM gone;\n"
        "MERGE INTO t USING (SELECT 1 AS id) AS n ON n.id = t.id WHEN MATCHED THEN DELETE;\n"
        "MERGE INTO t USING (SELECT 1 AS id) AS n ON n.id = t.id WHEN MATCHED THEN UPDATE SET id = 2;\n"
        "CREATE FUNCTION purge() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM t; END;"
    )
    (migration,) = judge([File(sql)], names())
    assert migration.risks == tuple(f"migrations/0001_first.sql:{line} deletes rows of t" for line in (2, 3, 5))


def rewrites(*statements: str, known: Names | None = None) -> list[str]:
    """What the last of `statements`, a line each, writes over in tables `notes` and `logs` that were there before."""
    fresh = Fresh({"notes": frozenset({"id", "body", "old"}), "logs": frozenset({"id"})}, views={"shown"})
    before = known or Names({"notes", "logs"}, {"shown"}, {"mood"}, reserved=RESERVED, fresh=fresh)
    (migration,) = judge([File("\n".join(statements))], before)
    place = f"migrations/0001_first.sql:{len(statements)} "
    return [rewrite.removeprefix(place) for rewrite in migration.rewrites]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE notes SET body = NULL;", "writes over notes.body"),
        ("UPDATE notes SET (body, old) = ('a', 'b'), old = '';", "writes over notes.body, notes.old"),
        ("UPDATE shown SET body = NULL;", "writes over shown.body"),
        ("WITH n AS (UPDATE notes SET old = '' RETURNING id) SELECT id FROM n;", "writes over notes.old"),
        ("INSERT INTO notes (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET body = ''", "writes over notes.body"),
        (
            "MERGE INTO notes USING logs ON notes.id = logs.id WHEN MATCHED THEN UPDATE SET old = ''",
            "writes over notes.old",
        ),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC UPDATE notes SET body = ''; END;",
            "writes over notes.body",
        ),
        ("ALTER TABLE notes ALTER old SET EXPRESSION AS ('');", "computes anew notes.old"),
        (
            "ALTER TABLE notes ADD FOREIGN KEY (old) REFERENCES logs (id) ON UPDATE CASCADE",
            "lets updates of logs write over notes.old",
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON notes FOR EACH ROW"
            " EXECUTE FUNCTION tsvector_update_trigger('old', 'pg_catalog.english', 'body')",
            "lets every change of notes write over notes.old",
        ),
        ("ALTER TYPE mood RENAME VALUE 'sad' TO 'glad';", "makes 'glad' of every 'sad' of type mood"),
        ("ALTER TABLE notes RENAME COLUMN body TO gone;", "renames column notes.body to gone"),
        ("ALTER TABLE notes RENAME TO gone;", "renames table notes to gone"),
    ],
)
def test_what_is_written_over_is_told_with_its_columns(sql: str, told: str) -> None:
    assert rewrites("SELECT 1;", sql) == [told]


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE notes ADD COLUMN short text;", "UPDATE notes SET short = left(body, 9);"),
        ("ALTER TABLE notes ADD COLUMN IF NOT EXISTS short text;", "UPDATE notes SET short = left(body, 9);"),
        ("ALTER TABLE notes ADD short text;", "ALTER TABLE notes RENAME short TO s;", "UPDATE notes SET s = '';"),
        ("CREATE TABLE tags (id int, name text);", "UPDATE tags SET name = '';"),
        ("CREATE TABLE IF NOT EXISTS tags AS SELECT id FROM notes;", "UPDATE tags SET id = 1;"),
        ("CREATE TABLE tags (id int);", "ALTER TABLE tags RENAME TO t;", "UPDATE t SET id = 1;"),
        ("CREATE TYPE age AS ENUM ('old');", "ALTER TYPE age RENAME VALUE 'old' TO 'young';"),
        ("ALTER TABLE notes ADD v tsvector;", "UPDATE notes SET v = to_tsvector(body) WHERE old = '';"),
        ("SELECT id FROM notes FOR UPDATE;",),
        ("INSERT INTO notes (id) VALUES (1) ON CONFLICT (id) DO NOTHING;",),
        ("ALTER TABLE notes ADD FOREIGN KEY (old) REFERENCES logs (id) ON DELETE SET NULL;",),
    ],
)
def test_filling_what_the_migrations_add_themselves_writes_nothing_over(statements: tuple[str, ...]) -> None:
    assert rewrites(*statements) == []


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (("ALTER TABLE notes ADD COLUMN IF NOT EXISTS body text;", "UPDATE notes SET body = '';"), "notes.body"),
        (("CREATE TABLE IF NOT EXISTS notes (id int);", "UPDATE notes SET body = '';"), "notes.body"),
        (("ALTER TABLE notes ADD new text;", "UPDATE notes SET new = body, body = new;"), "notes.body"),
        (("ALTER TABLE notes ADD new text;", "UPDATE logs SET id = 1;"), "logs.id"),
        (
            # The table gives its name to a view, behind which the others' rows are.
            (
                "CREATE TABLE t (body text);",
                "ALTER TABLE t RENAME TO u;",
                "CREATE VIEW t WITH (security_invoker = true) AS SELECT body FROM notes;",
                "UPDATE t SET body = '';",
            ),
            "t.body",
        ),
        (
            # CASCADE took no view along, so the table is not made.
            (
                "CREATE VIEW t WITH (security_invoker = true) AS SELECT body FROM notes;",
                "DROP INDEX i CASCADE;",
                "CREATE TABLE IF NOT EXISTS t (body text);",
                "UPDATE t SET body = '';",
            ),
            "t.body",
        ),
        (
            ("DROP INDEX i CASCADE;", "CREATE TABLE IF NOT EXISTS shown (body text);", "UPDATE shown SET body = '';"),
            "shown.body",
        ),
    ],
)
def test_what_only_looks_new_is_written_over(statements: tuple[str, ...], told: str) -> None:
    assert rewrites(*statements) == [f"writes over {told}"]


def test_a_new_column_is_new_in_the_files_after_it_too() -> None:
    first = File("ALTER TABLE notes ADD short text;")
    second = File("UPDATE notes SET short = body;", version="0002", path="migrations/0002_fill.sql")
    known = Names({"notes"}, reserved=RESERVED)
    assert [migration.rewrites for migration in judge([first, second], known)] == [(), ()]
    # Once the first has run, the column may hold what somebody stored.
    assert judge([second], known)[0].rewrites == ("migrations/0002_fill.sql:1 writes over notes.short",)


def test_too_deep_nesting_is_refused_not_a_crash() -> None:
    with pytest.raises(MigrationRefused):
        judge([File("SELECT " + "1+" * 20_000 + "1")], names())
    with pytest.raises(MigrationRefused):
        judge([File("SELECT " + "(" * 50_000 + "1" + ")" * 50_000)], names())


def test_a_file_of_unreasonable_size_is_refused() -> None:
    with pytest.raises(MigrationRefused, match="longer than"):
        judge([File("-- " + "x" * (4 * 1024 * 1024))], names())


def test_the_shape_after_migrations_is_predicted() -> None:
    sql = """
        CREATE TABLE t (id bigserial PRIMARY KEY, name varchar(40) NOT NULL, price numeric(10,2) DEFAULT 0,
          at timestamp(3), e kind);
        ALTER TABLE t ADD COLUMN more jsonb, DROP COLUMN price, ALTER COLUMN name TYPE text, ALTER name DROP NOT NULL;
        ALTER TABLE t RENAME COLUMN at TO seen_at;
        ALTER TABLE t RENAME TO items;
        CREATE UNIQUE INDEX items_name ON items (name, id);
        CREATE TABLE gone (id int);
        DROP TABLE gone;
        ALTER TABLE old ADD COLUMN b int;
    """
    (migration,) = judge([File(sql)], names(types={"kind"}, tables={"old"}))
    before = {"old": StoredTable("s", "old", {"a": StoredColumn("a", "text")}, has_rows=True)}
    after = predict("s", before, migration.effects)
    assert sorted(after) == ["items", "old"]
    assert {name: (column.type, column.nullable) for name, column in after["items"].columns.items()} == {
        "id": ("bigint", False),
        "name": ("text", True),
        "e": ("", True),
        "more": ("jsonb", True),
        "seen_at": ("timestamp(3) without time zone", True),
    }
    assert after["items"].columns["id"].default is not None
    assert after["items"].indexes["items_name"].columns == ("name", "id")
    assert sorted(after["old"].columns) == ["a", "b"]
    assert after["old"].has_rows
