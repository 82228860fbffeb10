"""Every word that a status can hold, and every field of a spec, is documented and used."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic.alias_generators import to_camel

from metacore_operator.outcomes import ConditionType, Reason
from metacore_operator.resources.spec import AddonSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "addons.md").read_text("utf-8")
CODE = "".join(
    path.read_text("utf-8")
    for path in (ROOT / "operator" / "metacore_operator").rglob("*.py")
    if path.name != "outcomes.py"
)


@pytest.mark.parametrize("word", [*ConditionType, *Reason])
def test_the_word_is_documented_and_used(word: ConditionType | Reason) -> None:
    assert f"`{word.value}`" in PAGE
    assert f"{type(word).__name__}.{word.name}" in CODE


@pytest.mark.parametrize("field", list(AddonSpec.model_fields))
def test_the_field_is_documented(field: str) -> None:
    assert f"| `{to_camel(field)}` |" in PAGE
