"""docs/guest-sql.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from metacore.db.grants import GUEST_COLUMNS
from metacore.guest_sql import execute, judging
from metacore.guest_sql.arguments import TAGS
from metacore.installer.names import guest_role, shadow_role, tables_role
from metacore.orm.tables import metadata
from metacore.wasm.limits import (
    MAX_DB_EXEC_CALLS,
    MAX_HOST_REPLY_BYTES,
    MAX_JUDGED_SQL,
    MAX_SQL_ARGUMENTS,
    MAX_SQL_BYTES,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guest-sql.md").read_text("utf-8")


def test_every_limit_is_on_the_page() -> None:
    for words in (
        f"{MAX_SQL_BYTES // 1024} KiB of SQL",
        f"{MAX_JUDGED_SQL // 1024} KiB of SQL that was not known yet",
        f"the last {judging.MOST_REMEMBERED:,} of a process",
        f"more than {judging.LONG:,} characters",
        f"{execute.MAX_SECONDS:g} s,",
        f"{execute.MAX_ROWS:,} rows of `db_query`",
        f"{MAX_HOST_REPLY_BYTES // 1024**2} MiB of reply",
        f"{MAX_DB_EXEC_CALLS} calls",
        f"at most {MAX_SQL_ARGUMENTS},",
    ):
        assert words in PAGE, words


def test_every_tag_of_an_argument_is_on_the_page() -> None:
    assert re.findall(r'`\{"(\$\w+)"', PAGE) == list(TAGS)


def test_the_roles_are_named_as_they_are_made() -> None:
    for made in (guest_role("app", "<key>"), shadow_role("app", "<key>"), tables_role("app")):
        assert f"`{re.sub('[0-9a-f]{8}', '<database>', made)}`" in PAGE


def test_the_columns_that_users_never_show_are_named() -> None:
    for table, shown in GUEST_COLUMNS.items():
        hidden = sorted(set(metadata.tables[table].columns.keys()) - set(shown))
        assert f"without {' and '.join(f'`{name}`' for name in hidden)}" in PAGE
