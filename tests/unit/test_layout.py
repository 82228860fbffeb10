"""The shape of the repository, where a wrong one would break something far away."""

from __future__ import annotations

import operator
import re
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "kernel/metacore").rglob("*.py"), *(ROOT / "operator/metacore_operator").rglob("*.py")])


@pytest.mark.parametrize("container", ["kernel", "operator"])
def test_containers_are_no_packages(container: str) -> None:
    assert not (ROOT / container / "__init__.py").exists()


def test_the_standard_librarys_operator_is_not_shadowed() -> None:
    assert Path(operator.__file__).is_relative_to(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small(module: Path) -> None:
    assert len(module.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES}), ids=lambda path: path.name)
def test_every_room_says_what_belongs_in_it(package: Path) -> None:
    assert (package / "__init__.py").read_text("utf-8").startswith('"""')


def test_every_page_of_the_documentation_is_in_the_navigation_and_exists() -> None:
    named = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text("utf-8")))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert named == pages
