"""docs/capabilities.md: its program runs, and it names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.modes import SHADOW_WORDS, ModeSource
from metacore.capabilities.recorder import VIOLATION_EVENT
from metacore.settings import ENFORCE_WORDS, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "capabilities.md").read_text("utf-8")


def test_the_program_of_the_page_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "enforce shop http:fetch api.example.com\n"), done.stderr


def test_the_page_names_every_kind_source_word_and_setting_once_more() -> None:
    rows = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`([^`]+)`", row)}
    assert words == {*CapabilityKind, *ModeSource}
    for word in ENFORCE_WORDS | SHADOW_WORDS | {VIOLATION_EVENT}:
        assert f"`{word}`" in PAGE or f'"{word}"' in PAGE, word
    for name in re.findall(r"METACORE_[A-Z_]+", PAGE):
        assert name.removeprefix("METACORE_").lower() in Settings.model_fields, name


@pytest.mark.parametrize("command", ["status", "report", "suggest"])
def test_the_page_shows_each_command(command: str) -> None:
    assert f"$ metacore enforce {command}" in PAGE
