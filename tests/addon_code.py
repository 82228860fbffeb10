"""Addons with code: writing their folders, building the examples, installing and asking them over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.control_plane import Plane
from tests.tickets import signed

from metacore.bundle.read import read_bundle
from metacore.bundle.write import pack_folder
from metacore.cli.addon_code import compile_code
from metacore.cli.examine import examine

EXAMPLES = Path(__file__).parents[1] / "examples" / "addons"


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
