"""Bundles that `metacore dev` builds itself, and those that it must leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from metacore.bundle.read import read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, sign, verify
from metacore.cli.dev_builds import build_missing, load_or_make_key

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
ADDON = """\
apiVersion: metacore.dev/v1alpha1
kind: Addon
metadata:
  name: notes
  annotations: {metacore.dev/build-from: %s}
spec:
  source: {path: %s}
  organizations: {all: true}
"""


def trusted(key: SigningKey) -> TrustedKeys:
    return TrustedKeys((bytes(key.verify_key),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "addons"
    (folder / "notes").mkdir(parents=True)
    write_manifest(folder, "1.0.0")
    (folder / "notes.yaml").write_text(ADDON % ("notes", "dist/notes.tar.gz"))
    return folder


def write_manifest(root: Path, version: str) -> None:
    manifest = {
        "apiVersion": "asteby.com/v3",
        "kind": "Addon",
        "metadata": {"key": "notes", "name": "Notes", "version": version},
    }
    (root / "notes" / "manifest.json").write_text(json.dumps(manifest))


def files(root: Path) -> tuple[Path, Path]:
    return root / "dist" / "notes.tar.gz", root / "dist" / "notes.tar.gz.sig.json"


def test_a_missing_bundle_is_built_and_signed_once(root: Path) -> None:
    builds = build_missing(root, KEY)

    bundle, signature = files(root)
    assert [(build.addon, build.path, build.problem) for build in builds] == [
        ("default/notes", "dist/notes.tar.gz", "")
    ]
    assert read_bundle(bundle.read_bytes()).manifest.version == "1.0.0"
    verify(bundle.read_bytes(), Signature.from_json(signature.read_bytes()), trusted(KEY))
    assert build_missing(root, KEY) == []


def test_what_is_there_stays_though_the_sources_changed(root: Path) -> None:
    build_missing(root, KEY)
    before = [file.read_bytes() for file in files(root)]
    write_manifest(root, "1.1.0")

    assert build_missing(root, KEY) == []
    assert [file.read_bytes() for file in files(root)] == before


def test_one_that_somebody_else_signed_is_built_again(root: Path) -> None:
    build_missing(root, OTHER)

    assert len(build_missing(root, KEY)) == 1

    bundle, signature = files(root)
    verify(bundle.read_bytes(), Signature.from_json(signature.read_bytes()), trusted(KEY))


@pytest.mark.parametrize("signer", [KEY, OTHER])
def test_a_changed_bundle_is_never_replaced(root: Path, signer: SigningKey) -> None:
    build_missing(root, signer)
    bundle, signature = files(root)
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)

    assert build_missing(root, KEY) == []
    assert bundle.read_bytes() == bytes(content)
    assert Signature.from_json(signature.read_bytes()).digest != ""


def test_a_bundle_without_signature_is_signed_only_when_it_is_what_the_sources_give(root: Path) -> None:
    build_missing(root, KEY)
    bundle, signature = files(root)
    signature.unlink()
    assert len(build_missing(root, KEY)) == 1
    assert signature.exists()

    signature.unlink()
    bundle.write_bytes(b"something else")
    assert build_missing(root, KEY) == []
    assert not signature.exists()


def test_an_unreadable_signature_is_left_alone(root: Path) -> None:
    build_missing(root, KEY)
    _, signature = files(root)
    signature.write_text("{")

    assert build_missing(root, KEY) == []
    assert signature.read_text() == "{"


@pytest.mark.parametrize(
    ("folder", "path", "words"),
    [
        ("nothing", "dist/a.tar.gz", "is not a folder"),
        ("../..", "dist/a.tar.gz", "leads out"),
        ("notes", "../a.tar.gz", "leads out"),
    ],
)
def test_what_cannot_be_built_is_told_and_the_rest_goes_on(root: Path, folder: str, path: str, words: str) -> None:
    (root / "a-bad.yaml").write_text((ADDON % (folder, path)).replace("name: notes", "name: bad"))

    builds = build_missing(root, KEY)

    assert [build.addon for build in builds] == ["default/bad", "default/notes"]
    assert words in builds[0].problem
    assert builds[1].problem == ""


def test_other_addons_build_nothing(root: Path) -> None:
    (root / "notes.yaml").write_text((ADDON % ("notes", "x.tar.gz")).replace("metacore.dev/build-from", "other"))

    assert build_missing(root, KEY) == []


def test_the_development_key_is_made_once(tmp_path: Path) -> None:
    first = load_or_make_key(tmp_path / "keys" / "dev.key")

    assert load_or_make_key(tmp_path / "keys" / "dev.key") == first
    assert sign_is_private(tmp_path / "keys" / "dev.key")


def sign_is_private(file: Path) -> bool:
    return file.stat().st_mode & 0o777 == 0o600


def test_building_twice_gives_the_same_bytes(root: Path) -> None:
    build_missing(root, KEY)
    bundle, signature = files(root)
    first = bundle.read_bytes()
    bundle.unlink()
    signature.unlink()
    build_missing(root, KEY)

    assert bundle.read_bytes() == first
    assert sign(first, KEY).value == Signature.from_json(signature.read_bytes()).value
