"""docs/dynamic.md: its queries are read as it says, its code runs, and it knows every code that a field can get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.live_models import live_model

from metacore.dynamic import filters, query
from metacore.dynamic.hook_points import HookPoint, HookRegistry
from metacore.dynamic.postgres_statements import COUNT_CAP, ESTIMATE_FROM
from metacore.dynamic.service import ATTEMPTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dynamic.md").read_text()
QUERIES = [urlsplit(found).query for found in re.findall(r"'(dynamic/tickets\?[^']*)'", PAGE) if urlsplit(found).query]
FILTERS = re.findall(r"`(f_[a-z_]+=[^`]*)`", PAGE)


@pytest.mark.parametrize("text", [*QUERIES, *(found.replace("\\|", "|") for found in FILTERS)])
def test_every_query_of_the_page_means_something(text: str) -> None:
    params = parse_qsl(text, keep_blank_values=True, errors="strict")
    parsed = query.parse_list_query(live_model(), params, max_per_page=200)
    assert parsed != query.parse_list_query(live_model(), [], max_per_page=200)
    assert len(parsed.filters) >= sum(name.startswith("f_") for name, _ in params)


def test_the_code_of_the_page_registers_its_hooks() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "dynamic.md", "exec"), names)
    hooks: HookRegistry = names["hooks"]
    model = live_model()
    for point in (HookPoint.BEFORE_CREATE, HookPoint.BEFORE_DELETE, HookPoint.AFTER_UPDATE):
        assert len(hooks.at(point, model)) == 1
    assert not hooks.at(HookPoint.AFTER_CREATE, model)


def test_every_code_of_a_field_is_on_the_page() -> None:
    source = "".join(path.read_text() for path in (ROOT / "kernel" / "metacore" / "dynamic").glob("*.py"))
    codes = set(re.findall(r'BadValue\(\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'findings\.add\(name, "([a-z_]+)"', source))
    codes |= set(re.findall(r'Problem\([^,()]+, "([a-z_]+)"', source))
    assert {"type", "required", "unique", "transition", "option"} <= codes
    assert not {code for code in codes if f"`{code}`" not in PAGE}


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    for number in (query.MAX_OFFSET, query.DEFAULT_PER_PAGE, filters.MAX_TERM, filters.MAX_IN_VALUES, COUNT_CAP):
        assert re.search(rf"\b{number:,}\b", PAGE), number
    assert f"counts to {ESTIMATE_FROM:,}" in PAGE
    assert ATTEMPTS == 5, "the page says after five rounds"
