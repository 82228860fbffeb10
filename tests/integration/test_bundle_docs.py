"""The page on bundles: its commands and its program run as written, and it names every code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metacore.errors import SignatureRefused

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bundles.md").read_text(encoding="utf-8")
BUNDLE_ROOM = ROOT / "kernel" / "metacore" / "bundle"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_tour_runs_as_written(tmp_path: Path) -> None:
    lines = [line.removeprefix("$ ") for line in block("console").splitlines()]
    assert len(lines) > 5
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "metacore"
        done = subprocess.run(
            [Path(sys.executable).with_name("metacore"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "METACORE_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "docs/bundles.md", "exec"), {})
    assert capsys.readouterr().out.endswith(" 1.0.0\n")


def test_every_code_of_a_refusal_is_named() -> None:
    raised: set[str] = set()
    for name in ("archive.py", "paths.py", "read.py", "signature.py"):
        raised |= set(re.findall(r"code=\"([a-z_]+)\"", (BUNDLE_ROOM / name).read_text(encoding="utf-8")))
    raised -= {"entry_place"}  # Only writers say that.
    assert raised
    assert {code for code in raised if f"`{code}`" not in PAGE} == set()
    assert SignatureRefused.__doc__ is not None
    assert all(
        code in SignatureRefused.__doc__ for code in re.findall(r"\| `([a-z_]+)` \|", PAGE.split("## Signatures")[1])
    )
