"""The page on manifests: its examples are valid, its programs run, and it names what the readers know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metacore.manifest import capabilities, columns
from metacore.manifest.compatibility import check_kernel
from metacore.manifest.names import KERNEL_COLUMNS
from metacore.manifest.read import inspect_manifest

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("place", range(len(blocks("json"))))
def test_every_example_is_a_valid_manifest_without_warnings(place: int) -> None:
    reading = inspect_manifest(blocks("json")[place].encode())
    assert (reading.problems, reading.warnings) == ((), ())
    assert reading.manifest is not None
    check_kernel(reading.manifest)


def test_there_is_an_example_of_each_version() -> None:
    assert [json.loads(block).get("apiVersion") for block in blocks("json")] == ["asteby.com/v3", None]


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    exec(compile(program, "docs/manifest.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("notes 1.0.0\n")
    assert "manifest.version version" in shown


@pytest.mark.parametrize("word", sorted({*columns.TYPES, *columns.WIDGETS, *capabilities.KINDS, *KERNEL_COLUMNS}))
def test_the_page_names_every_type_widget_capability_and_kernel_column(word: str) -> None:
    assert f"`{word}`" in PAGE


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_the_page_names_every_top_level_key(kind: str) -> None:
    page_keys = set(re.findall(r"`([A-Za-z_]+)`", PAGE))
    source = (Path(inspect_manifest.__code__.co_filename).parent / f"{kind}.py").read_text(encoding="utf-8")
    read = set(re.findall(r"root\.(?:text|free|node|raw|texts)\(\"([a-zA-Z_]+)\"", source))
    assert read
    assert read <= page_keys
