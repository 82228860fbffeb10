"""Compiled modules in memory and on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wasmtime
from tests.guests.build import assemble, call, guest

from metacore.errors import Misconfigured, Refused
from metacore.wasm import cache_directory
from metacore.wasm.cache_directory import CacheDirectory
from metacore.wasm.engine import Engine
from metacore.wasm.limits import MAX_MODULE_BYTES
from metacore.wasm.modules import Modules

ECHO = guest("echo")
DIGEST = hashlib.sha256(ECHO).hexdigest()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


class Reader:
    """Gives the module and counts how often it was needed: each time means compiling."""

    def __init__(self, wasm: bytes = ECHO) -> None:
        self.wasm = wasm
        self.times = 0

    def __call__(self) -> bytes:
        self.times += 1
        return self.wasm


@pytest.fixture
def opened(engine: Engine, folder: Path) -> Iterator[Callable[[], Modules]]:
    """Modules over one directory, as several processes one after the other would have them."""
    all_modules: list[Modules] = []

    def build() -> Modules:
        modules = Modules(engine, folder)
        all_modules.append(modules)
        return modules

    yield build
    for modules in all_modules:
        modules.close()


def artifact(folder: Path) -> Path:
    (found,) = folder.glob("*.cwasm")
    return found


def test_a_module_is_compiled_once_and_found_on_disk_by_the_next_process(opened: Callable[[], Modules]) -> None:
    read = Reader()
    first = opened()
    assert first.load(DIGEST, read) is first.load(DIGEST, read)
    second = opened()
    second.load(DIGEST, read)
    assert read.times == 1
    assert call(second, ECHO, "echo", b"[1]").value == [1]


def test_what_is_cached_is_private(opened: Callable[[], Modules], folder: Path) -> None:
    opened().load(DIGEST, Reader())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "one_bit":
        # In the middle lies machine code, which the engine itself would load without a word.
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()
    elif how == "a_link":
        path.rename(path.with_suffix(".elsewhere"))
        path.symlink_to(path.with_suffix(".elsewhere"))
    elif how == "writable":
        path.chmod(0o666)


@pytest.mark.parametrize("how", ["truncated", "emptied", "one_bit", "missing", "a_link", "writable"])
@pytest.mark.parametrize("suffix", [".cwasm", ".json"])
def test_a_damaged_file_is_compiled_anew(opened: Callable[[], Modules], folder: Path, how: str, suffix: str) -> None:
    read = Reader()
    opened().load(DIGEST, read)
    damaged(artifact(folder).with_suffix(suffix), how)
    modules = opened()
    assert modules.load(DIGEST, read).digest == DIGEST
    assert read.times == (1 if (how, suffix) == ("writable", ".json") else 2)
    assert call(modules, ECHO, "echo", b"[1]").value == [1]
    opened().load(DIGEST, read)
    assert read.times == (1 if (how, suffix) == ("writable", ".json") else 2), "the damaged file was not replaced"


def test_an_artifact_of_another_engine_is_compiled_anew(opened: Callable[[], Modules], folder: Path) -> None:
    read = Reader()
    opened().load(DIGEST, read)
    config = wasmtime.Config()
    config.consume_fuel = True
    other = wasmtime.Module(wasmtime.Engine(config), ECHO)
    directory = CacheDirectory(folder)
    directory.write(artifact(folder).stem, other.serialize(), starts=False)
    directory.close()
    assert opened().load(DIGEST, read).digest == DIGEST
    assert read.times == 2


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o755])
def test_a_directory_that_others_may_enter_is_refused(engine: Engine, folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(Misconfigured, match="0700"):
        Modules(engine, folder)


def test_a_directory_opened_to_others_later_is_refused_at_the_next_load(
    opened: Callable[[], Modules], folder: Path
) -> None:
    modules = opened()
    folder.chmod(0o777)
    with pytest.raises(Misconfigured, match="0700"):
        modules.load(DIGEST, Reader())


def test_a_link_and_a_file_are_no_directory(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(Misconfigured):
            Modules(engine, tmp_path / name)


def test_a_directory_of_somebody_else_is_refused(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Misconfigured, match="another user"):
        Modules(engine, folder)


def test_a_directory_put_in_place_of_ours_is_never_read(opened: Callable[[], Modules], folder: Path) -> None:
    read = Reader()
    opened().load(DIGEST, read)
    modules = opened()
    folder.rename(folder.with_name("ours"))
    folder.mkdir(mode=0o777)
    for path in folder.with_name("ours").iterdir():
        (folder / path.name).write_bytes(b"\x7fELF evil")
    modules.load(DIGEST, read)
    assert read.times == 1


def test_a_directory_that_cannot_be_written_costs_only_time(
    opened: Callable[[], Modules], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CacheDirectory, "_replace", full)
    assert call(opened(), ECHO, "echo", b"[1]").value == [1]


def test_old_artifacts_make_room(opened: Callable[[], Modules], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_directory, "MAX_ARTIFACTS", 2)
    modules = opened()
    guests = [assemble(f'(module (memory (export "memory") {size}) {ALLOC})') for size in (1, 2, 3)]
    for age, wasm in enumerate(guests):
        digest = hashlib.sha256(wasm).hexdigest()
        modules.load(digest, Reader(wasm))
        for path in folder.glob(f"{digest}*"):
            os.utime(path, (age, age))
    kept = {path.name.split("-")[0] for path in folder.iterdir()}
    assert kept == {hashlib.sha256(wasm).hexdigest() for wasm in guests[1:]}


ALLOC = '(func (export "alloc") (param i32) (result i32) (i32.const 1024))'


def test_memory_keeps_the_modules_used_last(engine: Engine) -> None:
    modules = Modules(engine, in_memory=2)
    wasms = [assemble(f'(module (memory (export "memory") {size}) {ALLOC})') for size in (1, 2, 3)]
    digests = [hashlib.sha256(wasm).hexdigest() for wasm in wasms]
    modules.load(digests[0], Reader(wasms[0]))
    modules.load(digests[1], Reader(wasms[1]))
    modules.load(digests[0], Reader(wasms[0]))
    modules.load(digests[2], Reader(wasms[2]))
    assert [modules.loaded(digest) is not None for digest in digests] == [True, False, True]
    modules.close()


def test_a_module_wanted_by_many_threads_at_once_is_compiled_once(engine: Engine) -> None:
    modules = Modules(engine)
    read = Reader()
    ready = threading.Barrier(8)
    found: list[object] = []

    def load() -> None:
        ready.wait()
        found.append(modules.load(DIGEST, read))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (read.times, len(set(map(id, found)))) == (1, 1)
    modules.close()


@pytest.mark.parametrize(
    ("wasm", "code"),
    [
        (b"(module)", "wasm_invalid"),
        (b"\0asm\x01\0\0\0\xff", "wasm_invalid"),
        (b"\0asm\x0d\0\x01\0", "wasm_invalid"),
        (b"\0asm\x01\0\0\0" + bytes(MAX_MODULE_BYTES), "wasm_too_large"),
        (assemble("(module)"), "wasm_refused"),
    ],
    ids=["text", "garbage", "component", "too large", "no memory"],
)
def test_what_is_no_guest_is_refused(engine: Engine, wasm: bytes, code: str) -> None:
    modules = Modules(engine)
    with pytest.raises(Refused) as refused:
        modules.load(hashlib.sha256(wasm).hexdigest(), Reader(wasm))
    assert refused.value.code == code
    modules.close()


def test_other_bytes_than_those_of_the_digest_are_refused(engine: Engine) -> None:
    modules = Modules(engine)
    with pytest.raises(Refused, match="not the one that was verified"):
        modules.load(DIGEST, Reader(guest("hostile")))
    modules.close()
