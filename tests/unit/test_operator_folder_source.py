"""Bundles below one root: what is read, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metacore.errors import Refused, Unavailable
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.sources import folder as folder_source
from metacore_operator.sources.folder import FolderSource


def addon(path: str) -> Addon:
    return parse_addon(
        {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": "tickets"},
            "spec": {"source": {"path": path}, "organizations": {"all": True}},
        }
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "addons"
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / "tickets.tar.gz").write_bytes(b"bundle")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


async def test_a_bundle_comes_with_the_signature_beside_it(root: Path) -> None:
    source = FolderSource(root)

    assert (await source.fetch(addon("dist/tickets.tar.gz"))).signature is None

    (root / "dist" / "tickets.tar.gz.sig.json").write_bytes(b"{}")
    fetched = await source.fetch(addon("dist/tickets.tar.gz"))
    assert (fetched.content, fetched.signature, fetched.origin) == (b"bundle", b"{}", "dist/tickets.tar.gz")


async def test_links_inside_the_root_are_followed(root: Path) -> None:
    (root / "current.tar.gz").symlink_to("dist/tickets.tar.gz")

    assert (await FolderSource(root).fetch(addon("current.tar.gz"))).content == b"bundle"


@pytest.mark.parametrize(
    "path", ["../secret", "dist/../../secret", "../nothing-there", "/etc/hostname", "escape", "out/secret", "loop"]
)
async def test_nothing_outside_the_root_is_read(root: Path, path: str) -> None:
    (root / "escape").symlink_to(root.parent / "secret")
    (root / "out").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")

    with pytest.raises(Refused) as refusal:
        await FolderSource(root).fetch(addon(path))
    assert "secret" not in refusal.value.message.replace(path, "")


async def test_a_signature_that_links_out_is_refused_too(root: Path) -> None:
    (root / "dist" / "tickets.tar.gz.sig.json").symlink_to(root.parent / "secret")

    with pytest.raises(Refused, match="leads out"):
        await FolderSource(root).fetch(addon("dist/tickets.tar.gz"))


async def test_what_is_not_there_yet_may_come(root: Path) -> None:
    with pytest.raises(Unavailable, match=r"no file 'later\.tar\.gz'"):
        await FolderSource(root).fetch(addon("later.tar.gz"))


async def test_folders_and_pipes_are_no_bundles(root: Path) -> None:
    os.mkfifo(root / "pipe")

    for path in ("dist", "pipe"):
        with pytest.raises(Refused, match="is not a file"):
            await FolderSource(root).fetch(addon(path))


async def test_a_huge_file_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_source, "LARGEST_BUNDLE", 5)

    with pytest.raises(Refused, match="larger than 5 bytes"):
        await FolderSource(root).fetch(addon("dist/tickets.tar.gz"))
