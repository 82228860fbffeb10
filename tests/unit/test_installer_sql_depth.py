"""SQL that would end the process which reads it is refused before it is read; much SQL that is not deep is not."""

from __future__ import annotations

import pytest
from tests.unit.test_installer_sql_judge import File, names

from metacore.errors import MigrationRefused
from metacore.installer.sql_migrations import judge

LONG = 200_000
DEEP = {
    "a chain": "SELECT " + "+".join("1" * LONG),
    "a chain of calls": "SELECT " + "||".join(["coalesce('a', 'b')"] * LONG),
    "brackets": "SELECT " + "(" * LONG + "1" + ")" * LONG,
    "calls in calls": "SELECT " + "coalesce(1," * LONG + "1" + ")" * LONG,
    "elements of elements": "SELECT a" + "[1]" * LONG,
    "casts of casts": "SELECT 1" + "::int" * LONG,
    "set operations": "SELECT 1" + " UNION ALL SELECT 1" * LONG,
    "set operations of several columns": "SELECT 1,2" + " UNION ALL SELECT 1,2" * (LONG // 4),
    "set operations in an insertion": "INSERT INTO t SELECT 1,2" + " EXCEPT SELECT 1,2" * (LONG // 4),
    "negations": "SELECT " + "NOT " * LONG + "true",
    "a body of a function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT " + "+".join("1" * LONG) + "'",
}


@pytest.mark.parametrize("what", DEEP)
def test_what_is_too_deep_is_refused(what: str) -> None:
    with pytest.raises(MigrationRefused, match=r"first\.sql:2.*too long or too deeply nested"):
        judge([File(f"-- It is the second line.\n{DEEP[what]};")], names())


def test_a_long_file_is_not_deep() -> None:
    rows = ", ".join(f"({number}, 'text {number}')" for number in range(20_000))
    table = "CREATE TABLE cities (id int, organization_id uuid, name text);\n"
    single = "".join(f"INSERT INTO cities (id, name) VALUES ({number}, 'x');\n" for number in range(5_000))

    judged = judge([File(f"{table}INSERT INTO cities (id, name) VALUES {rows};\n{single}")], names())

    assert len(judged[0].statements) == 5_002


def test_comments_are_not_deep() -> None:
    assert judge([File("-- a word about this file\n" * 9_000 + "CREATE TABLE cities (id int);")], names())
