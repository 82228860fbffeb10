"""Adding capabilities to the text of a manifest: the list grows, every other character stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.cli.manifest_patch import insert

NEW = [{"kind": "db:read", "target": "addon_crm.deals", "reason": "é"}, {"kind": "x", "target": "y", "reason": ""}]
ONE, TWO = (json.dumps(entry, ensure_ascii=False) for entry in NEW)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", f'{{ "capabilities": [{ONE}, {TWO}]}}'),
        ('{"a": 1}', f'{{"a": 1, "capabilities": [{ONE}, {TWO}]}}'),
        ('{"capabilities": []}', f'{{"capabilities": [{ONE}, {TWO}]}}'),
        ('{"capabilities":null,"b":2}', f'{{"capabilities":[{ONE}, {TWO}],"b":2}}'),
        ('{"capabilities": [1], "b": []}', f'{{"capabilities": [1, {ONE}, {TWO}], "b": []}}'),
        (
            '{\n  "a": {"capabilities": [9]},\n  "capabilities": [\n    { "k": 1 }\n  ],\n  "z": "]"\n}\n',
            '{\n  "a": {"capabilities": [9]},\n  "capabilities": [\n    { "k": 1 },\n'
            f'    {ONE},\n    {TWO}\n  ],\n  "z": "]"\n}}\n',
        ),
        ('{\n\t"a": 1\n}\n', f'{{\n\t"a": 1,\n\t"capabilities": [\n\t\t{ONE},\n\t\t{TWO}\n\t]\n}}\n'),
        ('{\n  "capabilities": [ ]\n}', f'{{\n  "capabilities": [\n    {ONE},\n    {TWO}\n  ]\n}}'),
        (
            '{\r\n  "capabilities": [\r\n    1\r\n  ]\r\n}',
            f'{{\r\n  "capabilities": [\r\n    1,\r\n    {ONE},\r\n    {TWO}\r\n  ]\r\n}}',
        ),
    ],
)
def test_the_style_of_what_is_there_is_kept(before: str, after: str) -> None:
    assert insert(before, NEW) == after


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["a", "capabilities ", 'b"]', "ü"]), VALUES, max_size=3),
    st.none() | st.lists(VALUES, max_size=3),
    st.booleans(),
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
)
def test_whatever_the_text_it_means_the_same_and_more(
    others: dict[str, Any], listed: list[Any] | None, there: bool, indent: int | str | None, plain: bool
) -> None:
    document = {**others, **({"capabilities": listed} if there else {})}
    text = json.dumps(document, indent=indent, ensure_ascii=plain)
    assert json.loads(insert(text, NEW)) == {**document, "capabilities": [*((listed if there else None) or []), *NEW]}
