"""The SQL in docs/installing.md does what the page says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from metacore.errors import MigrationRefused
from metacore.installer.sql_migrations import judge
from metacore.installer.sql_names import Names
from metacore.installer.steps import StepKind

PAGE = (Path(__file__).parents[2] / "docs" / "installing.md").read_text()
PASSES, REFUSED = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@dataclass(frozen=True)
class File:
    sql: str
    version: str = "0001"
    name: str = "page"
    path: str = "migrations/0001_page.sql"
    checksum: str = ""


def test_the_sql_that_passes_passes() -> None:
    assert len(judge([File(PASSES)], Names())[0].statements) == 6


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_the_sql_that_is_refused_is_refused_for_the_reason_given(line: str) -> None:
    sql, reason = line.split("  -- ")
    with pytest.raises(MigrationRefused, match=re.escape(reason)):
        judge([File(sql)], Names())


def test_every_kind_of_step_is_explained() -> None:
    for kind in StepKind:
        if kind is not StepKind.PROTECT:
            assert f"**{kind.value.replace('_', ' ').replace('foreign key', 'foreign keys')}**" in PAGE, kind
