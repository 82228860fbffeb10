"""Column defaults: the few allowed forms, checked against the type, rendered as SQL that can stand as it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.errors import InvalidInput
from metacore.manifest.defaults import sql_default
from metacore.manifest.model import ColumnType as T


@pytest.mark.parametrize(
    ("value", "kind", "sql"),
    [
        (0, T.DECIMAL, "0"),
        (-3.25, T.DECIMAL, "-3.25"),
        (1e3, T.DECIMAL, "1000"),
        (1e-3, T.DECIMAL, "0.001"),
        ("42", T.INT, "42"),
        (5.0, T.INT, "5"),
        (2**40, T.BIGINT, str(2**40)),
        (True, T.BOOL, "true"),
        ("false", T.BOOL, "false"),
        ("'open'", T.STRING, "'open'"),
        ("''", T.TEXT, "''"),
        (7, T.STRING, "'7'"),
        (True, T.TEXT, "'true'"),
        ("now()", T.TIMESTAMP, "now()"),
        ("NOW()", T.DATE, "now()"),
        ("CURRENT_TIMESTAMP", T.TIMESTAMP, "current_timestamp"),
        ("gen_random_uuid()", T.UUID, "gen_random_uuid()"),
        ("uuid_generate_v4()", T.UUID, "gen_random_uuid()"),
        ("'2026-01-31'", T.DATE, "'2026-01-31'"),
        ("'2026-01-31T10:00:00Z'", T.TIMESTAMP, "'2026-01-31T10:00:00Z'"),
        ("'{}'", T.JSONB, "'{}'"),
        ("'[1, 2]'", T.JSONB, "'[1, 2]'"),
        (3, T.JSONB, "'3'"),
        ("'12.5'", T.DECIMAL, "'12.5'"),
        (None, T.STRING, None),
        ("null", T.INT, None),
        ("NULL", T.STRING, None),
        ("", T.STRING, None),
    ],
)
def test_allowed_forms(value: Any, kind: T, sql: str | None) -> None:
    assert sql_default(value, kind) == sql


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("open", T.STRING),
        ("'o'pen'", T.STRING),
        ("'a;b'", T.STRING),
        ("'a\\b'", T.STRING),
        ("'a\"b'", T.STRING),
        ("'a\nb'", T.STRING),
        ("now() at time zone 'utc'", T.TIMESTAMP),
        ("nextval('x')", T.BIGINT),
        ("1; drop table users", T.INT),
        ("(select 1)", T.INT),
        ("1.5", T.INT),
        (2**31, T.INT),
        (2**63, T.BIGINT),
        (10**14, T.DECIMAL),
        (True, T.INT),
        (1, T.BOOL),
        (1, T.UUID),
        (1, T.DATE),
        ("now()", T.STRING),
        ("now()", T.INT),
        ("gen_random_uuid()", T.STRING),
        ("'not a uuid'", T.UUID),
        ("'31.01.2026'", T.DATE),
        ("'{'", T.JSONB),
        ("'abc'", T.INT),
        ({"a": 1}, T.JSONB),
        ([], T.JSONB),
        (float("inf"), T.DECIMAL),
        ("'" + "a" * 2_000 + "'", T.TEXT),
        ("true", T.TIMESTAMP),
    ],
)
def test_anything_else_is_not_allowed(value: Any, kind: T) -> None:
    with pytest.raises(InvalidInput, match="not allowed"):
        sql_default(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "sql"),
    [
        ("open", T.STRING, "'open'"),
        ("'open'", T.STRING, "'open'"),
        ("now()", T.TEXT, "'now()'"),
        ("true", T.STRING, "'true'"),
        ("null", T.STRING, "'null'"),
        ("42", T.STRING, "'42'"),
        ("", T.STRING, "''"),
        ("now()", T.TIMESTAMP, "now()"),
        ("gen_random_uuid()", T.UUID, "gen_random_uuid()"),
        ("42", T.INT, "42"),
        ("true", T.BOOL, "true"),
        ("2026-01-31", T.DATE, "'2026-01-31'"),
        ("{}", T.JSONB, "'{}'"),
    ],
)
def test_a_bare_string_of_v3_is_a_literal(value: Any, kind: T, sql: str) -> None:
    assert sql_default(value, kind, bare_text=True) == sql


@pytest.mark.parametrize("value", ["it's", "a;b", "a\\b", "a\x00b"])
def test_a_bare_string_of_v3_cannot_leave_its_quotes(value: str) -> None:
    with pytest.raises(InvalidInput, match="not allowed"):
        sql_default(value, T.TEXT, bare_text=True)


def test_a_text_must_fit_its_column() -> None:
    assert sql_default("'abc'", T.STRING, size=3) == "'abc'"
    with pytest.raises(InvalidInput, match="not allowed"):
        sql_default("'abcd'", T.STRING, size=3)


@given(st.text() | st.integers() | st.floats() | st.booleans(), st.sampled_from(T), st.booleans())
def test_whatever_passes_is_one_harmless_expression(value: Any, kind: T, bare: bool) -> None:
    try:
        sql = sql_default(value, kind, bare_text=bare)
    except InvalidInput:
        return
    if sql is not None:
        assert sql.count("'") in (0, 2)
        assert not set(sql.strip("'")) & set("';\\\"\n\0")
        if "'" not in sql:
            assert sql.replace(".", "").replace("-", "").isdigit() or sql in {
                *("now()", "current_timestamp", "gen_random_uuid()", "true", "false")
            }
