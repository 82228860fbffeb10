"""docs/addon-routes.md: every route of contract 16 with the capability that it asks for, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fastapi import FastAPI
from tests.applications import new_app

from metacore.api import addons, installations
from metacore.api.openapi import describe

PAGE = (Path(__file__).parents[2] / "docs" / "addon-routes.md").read_text("utf-8")
ELSEWHERE = ("mode", "violations", "jobs", "tools", "hooks")
ROWS = {
    (method, path): needs.strip()
    for method, path, needs in re.findall(r"^\| `([A-Z]+) (/metacore/[^`]*)` \|([^|]*)\|", PAGE, re.MULTILINE)
}


def test_every_route_stands_on_the_page() -> None:
    web = FastAPI()
    new_app("sqlite://").mount(web, "")
    served = {
        (method.upper(), path)
        for path, operations in describe(web, "0")["paths"].items()
        if path.startswith("/metacore/") and path.split("/")[2] not in ELSEWHERE and "/connectors" not in path
        for method in operations
    }
    assert set(ROWS) == served


def test_the_capabilities_are_those_that_are_asked_for() -> None:
    source = inspect.getsource(addons) + inspect.getsource(installations)
    asked = set(re.findall(r'require\(principal, "(addons\.[a-z]+)"\)', source))
    assert {needs.strip("`") for needs in ROWS.values() if needs.startswith("`")} == asked


def test_the_wait_on_the_page_is_the_default(tmp_path: Path) -> None:
    seconds = new_app(f"sqlite:///{tmp_path / 'x.db'}").config.request_wait
    assert f"After\n{seconds:g} seconds it answers 202" in PAGE
