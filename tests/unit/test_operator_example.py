"""The example addon is what its pages say: a clean manifest, whole translations, an Addon that declares it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metacore.bundle.read import read_bundle
from metacore.bundle.write import pack_folder
from metacore.cli.dev_builds import BUILD_FROM
from metacore.manifest.read import inspect_manifest
from metacore_operator.folder.documents import read_folder

ADDONS = Path(__file__).resolve().parents[2] / "examples" / "addons"
SOURCES = ADDONS / "tickets"
MANIFEST = (SOURCES / "manifest.json").read_bytes()


def test_the_manifest_has_neither_problems_nor_warnings() -> None:
    reading = inspect_manifest(MANIFEST)

    assert (reading.problems, reading.warnings) == ((), ())


def test_every_label_is_translated_into_each_language() -> None:
    manifest = read_bundle(pack_folder(SOURCES)).manifest
    used = set(re.findall(r'"(models\.[a-z0-9_.]+)"', json.dumps(json.loads(MANIFEST)["models"])))

    assert len(used) > 40
    assert set(manifest.i18n) == {"en", "es"}
    for messages in manifest.i18n.values():
        assert set(messages) == used


def test_the_bundle_carries_migration_frontend_and_readme() -> None:
    bundle = read_bundle(pack_folder(SOURCES))

    assert [migration.path for migration in bundle.migrations] == ["migrations/0001_rules.sql"]
    assert bundle.manifest.frontend is not None
    assert bundle.manifest.frontend.entry in bundle.files
    assert "README.md" in bundle.files


@pytest.mark.parametrize("key", ["journal", "orders", "pulse", "tickets"])
def test_each_is_declared_and_built_from_its_sources(key: str) -> None:
    contents = read_folder(ADDONS)

    assert contents.broken == ()
    (declared,) = [item for item in contents.declared if item.addon.key == key]
    version = json.loads((ADDONS / key / "manifest.json").read_text("utf-8"))["metadata"]["version"]
    assert declared.addon.metadata.annotations[BUILD_FROM] == key
    assert declared.addon.spec.source.path == f"dist/{key}-{version}.tar.gz"
    assert declared.addon.spec.organizations.all
