"""CustomResourceDefinitions come with the chart, are upgraded with it, and stay when it goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from tests.chart import generate
from tests.chart.rendering import CHART, of_kind, render
from tests.chart.value_sets import EXTERNAL

DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "addons.metacore.dev", "annotations": {"example.com/made-by": "generator"}},
    "spec": {"group": "metacore.dev", "names": {"kind": "Addon", "plural": "addons"}, "scope": "Namespaced"},
}


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy of the chart with one definition."""
    copy = tmp_path / "metacore"
    shutil.copytree(CHART, copy)
    shutil.rmtree(copy / "files" / "crds", ignore_errors=True)
    (copy / "files" / "crds").mkdir()
    (copy / "files" / "crds" / "addons.yaml").write_text(yaml.safe_dump(DEFINITION))
    return copy


def test_definitions_are_kept_when_the_release_goes(chart: Path) -> None:
    (definition,) = of_kind(render(EXTERNAL, chart=chart), "CustomResourceDefinition")
    assert definition["spec"] == DEFINITION["spec"]
    assert definition["metadata"]["name"] == "addons.metacore.dev"
    assert definition["metadata"]["annotations"] == {
        "example.com/made-by": "generator",
        "helm.sh/resource-policy": "keep",
    }
    assert definition["metadata"]["labels"]["app.kubernetes.io/instance"] == "shop"


def test_definitions_can_be_left_out(chart: Path) -> None:
    objects = render({**EXTERNAL, "crds": {"install": False}}, chart=chart)
    assert not of_kind(objects, "CustomResourceDefinition")


def test_the_charts_copies_are_those_of_the_repository() -> None:
    held = {path.name: path.read_text("utf-8") for path in generate.DEFINITIONS.glob("*.yaml")}
    assert held == generate.definitions(), "run python -m tests.chart.generate"


def test_the_real_definitions_arrive_unchanged() -> None:
    rendered = {
        item["metadata"]["name"]: item["spec"] for item in of_kind(render(EXTERNAL), "CustomResourceDefinition")
    }
    held = [yaml.safe_load(path.read_text("utf-8")) for path in generate.DEFINITIONS.glob("*.yaml")]
    assert rendered == {item["metadata"]["name"]: item["spec"] for item in held}
    assert "addons.metacore.dev" in rendered


def test_helms_own_folder_for_definitions_is_not_used() -> None:
    """What lies there is installed once and never upgraded."""
    assert not (CHART / "crds").exists()
