"""The kit that addon code is written with stands in an example, where it is compiled and run, and in its template."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "addons"
TEMPLATES = ROOT / "kernel" / "metacore" / "cli" / "templates"
OWN = {"go": {"go.mod", "main.go"}, "assemblyscript": {"assembly/index.ts"}}
"""What the author of an addon writes; all else of a template is the kit."""


@pytest.mark.parametrize(("language", "example"), [("go", "orders"), ("assemblyscript", "journal")])
def test_the_kit_of_the_template_is_the_one_of_the_example(language: str, example: str) -> None:
    template = TEMPLATES / language
    kit = {
        name: path.read_text()
        for path in template.rglob("*")
        if path.is_file() and (name := path.relative_to(template).as_posix()) not in OWN[language]
    }

    assert kit
    for name, text in kit.items():
        assert (EXAMPLES / example / "code" / name).read_text() == text, f"{name}: make both the same again"
