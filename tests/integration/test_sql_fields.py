"""`x.name` may be a call. What the judges take for columns is held against the functions that PostgreSQL has."""

from __future__ import annotations

from metacore.db.database import Database
from metacore.guest_sql import rules as guest_rules
from metacore.installer import sql_rules as rules

OUTPUTS = """
SELECT proname, unnest(proargnames[array_length(proargmodes, 1) - cardinality(array_positions(proargmodes, 'o')) + 1:])
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ($1::text[]) AND 'o' = ANY (proargmodes)
"""


async def test_no_function_is_called_like_a_column_that_functions_give_their_rows(owner_db: Database) -> None:
    called = await owner_db.postgres.fetch("SELECT proname FROM pg_proc WHERE proname = ANY ($1)", list(rules.FIELDS))
    assert called == []


async def test_all_columns_of_allowed_functions_are_known(owner_db: Database) -> None:
    found = await owner_db.postgres.fetch(OUTPUTS, list(rules.FUNCTIONS | guest_rules.FUNCTIONS))
    assert found
    assert {name for _function, name in found} <= rules.FIELDS


async def test_functions_whose_column_is_called_like_their_alias_name_none(owner_db: Database) -> None:
    named = await owner_db.postgres.fetch(OUTPUTS, list(rules.UNNAMED_ROWS))
    # For a tsvector there is an unnest with several columns: its rows are no plain values, so nothing can be called.
    assert {function for function, _name in named} <= {"unnest"}
    several = await owner_db.postgres.fetch(
        "SELECT 1 FROM pg_proc WHERE proname = 'unnest' AND 'o' = ANY (proargmodes)"
        " AND cardinality(array_positions(proargmodes, 'o')) < 2"
    )
    assert several == []
