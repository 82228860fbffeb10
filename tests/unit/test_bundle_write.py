"""Writing bundles: the same files give the same bytes, and nothing gets in that does not belong there."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
from pathlib import Path

import pytest
from tests.bundles import FILES

from metacore.bundle import archive as archives
from metacore.bundle.read import read_bundle
from metacore.bundle.write import collect_folder, pack_folder, write_bundle
from metacore.errors import BundleRefused


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def refusal(files: dict[str, bytes]) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        write_bundle(files)
    return caught.value


def test_the_order_in_which_files_are_given_changes_nothing() -> None:
    first = write_bundle(FILES)
    shuffled = list(FILES.items())
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert write_bundle(dict(shuffled)) == first


def test_entries_stand_in_the_fixed_order_with_fixed_attributes() -> None:
    with tarfile.open(fileobj=io.BytesIO(write_bundle(FILES))) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        "manifest.json",
        "migrations/0001_init.sql",
        "migrations/0002_more.sql",
        "frontend/assets/a.css",
        "frontend/remoteEntry.js",
        "backend/backend.wasm",
        "README.md",
    ]
    assert {(member.mode, member.mtime, member.uid, member.gid, member.uname, member.type) for member in members} == {
        (0o644, 0, 0, 0, "", tarfile.REGTYPE)
    }


def test_the_gzip_header_holds_neither_name_nor_time() -> None:
    magic, method, flags, time = struct.unpack("<HBBI", write_bundle(FILES)[:8])
    assert (magic, method, flags, time) == (0x8B1F, 8, 0, 0)


def test_long_and_foreign_names_travel_as_pax() -> None:
    files = {**FILES, f"frontend/{'d' * 120}/é.js": b"1"}
    content = write_bundle(files)
    assert read_bundle(content).files == files
    assert b"ustar\x0000" in gzip.decompress(content)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("evil.sh", "entry_place"),
        ("src/main.ts", "entry_place"),
        ("readme.md", "entry_place"),
        ("migrations/init.sql", "migration_name"),
        ("migrations/1_init.sql", "migration_name"),
        ("migrations/0003_init.up.sql", "migration_name"),
        ("migrations/0003_init.SQL", "migration_name"),
        ("migrations/sub/0003_a.sql", "migration_name"),
        ("migrations/0001_again.sql", "migration_version"),
        ("/etc/passwd", "entry_name"),
        ("frontend/../../x", "entry_name"),
        ("frontend\\x", "entry_name"),
        ("frontend/a\nb", "entry_name"),
        ("frontend/" + "a" * 600, "entry_name"),
        ("frontend/\ud800", "entry_name"),
        ("./manifest.json", "duplicate_entry"),
    ],
)
def test_what_has_no_place_is_refused(name: str, code: str) -> None:
    assert refusal({**FILES, name: b"x"}).code == code


def test_a_bundle_needs_a_manifest() -> None:
    assert refusal({"README.md": b"x"}).code == "no_manifest"


def test_what_a_reader_would_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metacore.bundle.write.MAX_BYTES", 10_000)
    assert refusal({**FILES, "frontend/big": b"x" * 10_000}).code == "too_large"


def test_the_largest_bundle_that_is_written_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 200_000
    monkeypatch.setattr("metacore.bundle.write.MAX_BYTES", limit)
    files = {"manifest.json": FILES["manifest.json"], **{f"frontend/{'é' * 60}{i}": b"x" for i in range(90)}}
    assert len(archives.read_archive(write_bundle(files), limit=limit)) == 91


def test_a_folder_is_packed_without_what_does_not_belong(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "addon",
        {**FILES, "src/main.ts": b"x", "package.json": b"{}", "frontend/.DS_Store": b"x", "migrations/.gitkeep": b""},
    )
    assert collect_folder(folder) == FILES
    assert pack_folder(folder) == write_bundle(FILES)


def test_times_and_modes_of_the_files_change_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "addon", dict(FILES))
    first = pack_folder(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
            path.chmod(0o700)
    assert pack_folder(folder) == first


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "addon", {**FILES, "docs/README.md": b"# other"})
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("docs/README.md")
    assert collect_folder(folder)["README.md"] == b"# other"


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("frontend/secret", "/etc/hostname", "leaves the folder"),
        ("README.md", "../outside.md", "leaves the folder"),
        ("frontend/gone", "nowhere", "leads nowhere"),
        ("frontend/loop", "loop", "leads nowhere"),
        ("frontend/sub", "../migrations", "link to a folder"),
        ("backend", "frontend", "link to a folder"),
    ],
)
def test_links_that_leave_or_confuse_are_refused(tmp_path: Path, link: str, target: str, words: str) -> None:
    files = {name: content for name, content in FILES.items() if not name.startswith("backend") and name != "README.md"}
    folder = folder_with(tmp_path / "addon", files)
    (tmp_path / "outside.md").write_text("x")
    (folder / link).symlink_to(target)
    with pytest.raises(BundleRefused, match=words):
        collect_folder(folder)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "addon", dict(FILES))
    os.mkfifo(folder / "frontend" / "pipe")
    with pytest.raises(BundleRefused, match="not a regular file"):
        collect_folder(folder)


def test_a_folder_without_manifest_or_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"no manifest\.json"):
        pack_folder(tmp_path)
    with pytest.raises(BundleRefused, match="not a folder"):
        pack_folder(tmp_path / "nowhere")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "addon", {"manifest.json": b"{}", "frontend": b"x"})
    with pytest.raises(BundleRefused, match="not a folder"):
        collect_folder(folder)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "addon", dict(FILES))
    with (folder / "frontend" / "huge").open("wb") as file:
        file.truncate(10 * archives.MAX_BYTES)
    with pytest.raises(BundleRefused, match="at most"):
        collect_folder(folder)
