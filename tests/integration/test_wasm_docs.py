"""docs/sandbox.md: its program runs, and its tables name what there is."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from metacore.wasm.abi import FailureCode, HostCode
from metacore.wasm.host_functions import FUNCTIONS
from metacore.wasm.ports import HostServices

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sandbox.md").read_text("utf-8")


def rows(heading: str) -> list[str]:
    """The words in the first column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", section, re.MULTILINE)


async def test_the_program_of_the_page_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "('env_get',) True {'success': True, 'data': 'hello'}\n"


def test_every_host_function_is_on_the_page_and_in_the_services() -> None:
    assert rows("What the host offers") == [spec.name for spec in FUNCTIONS]
    assert {spec.name for spec in FUNCTIONS} == {name for name in vars(HostServices) if not name.startswith("_")}


def test_every_code_is_on_the_page() -> None:
    assert rows("When a guest misbehaves") == [code.value for code in FailureCode]
    offered = PAGE.split("## What the host offers\n")[1].split("\n## ")[0]
    assert [code.value for code in HostCode if f"`{code.value}`" not in offered] == []
