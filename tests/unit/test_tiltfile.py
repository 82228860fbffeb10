"""The Tiltfile, run by a Starlark interpreter with Tilt's own functions recorded: what it declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import starlark
import yaml
from tests.chart.rendering import container, pod, render

ROOT = Path(__file__).parents[2]
FUNCTIONS = (
    *("allow_k8s_contexts", "docker_build", "local_resource", "fall_back_on", "sync", "link"),
    *("k8s_yaml", "k8s_resource", "run"),
)
EXTENSIONS: Mapping[str, tuple[str, ...]] = {"ext://helm_resource": ("helm_resource", "helm_repo")}


class Declared:
    """Calls by function: positional and named arguments. A call's value names it, so that nested ones are seen."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    def function(self, name: str) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            self.calls.setdefault(name, []).append((given, named))
            return [name, *given]

        return called

    def only(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (call,) = self.calls[name]
        return call


@pytest.fixture
def declared() -> Declared:
    found = Declared()
    module = starlark.Module()
    for name in FUNCTIONS:
        module.add_callable(name, found.function(name))
    module.add_callable("read_file", lambda path: (ROOT / path).read_text())

    def load(name: str) -> Any:
        extension = starlark.Module()
        for function in EXTENSIONS[name]:
            extension.add_callable(function, found.function(function))
        return extension.freeze()

    source = starlark.parse("Tiltfile", (ROOT / "Tiltfile").read_text(), starlark.Dialect.extended())
    starlark.eval(module, source, starlark.Globals.standard(), starlark.FileLoader(load))
    return found


def test_it_touches_no_other_cluster(declared: Declared) -> None:
    assert declared.only("allow_k8s_contexts") == (("kind-metacore",), {})
    cluster = yaml.safe_load((ROOT / "charts" / "kind" / "cluster.yaml").read_text())
    assert f"kind-{cluster['name']}" == "kind-metacore"
    (_, api) = declared.only("local_resource")
    assert "--context=kind-metacore" in api["serve_cmd"]
    assert set(declared.calls) >= {"docker_build", "helm_resource", "local_resource"}


def test_the_image_is_the_dockerfiles_with_a_watch_on_the_code(declared: Declared) -> None:
    (reference, context), named = declared.only("docker_build")
    values = yaml.safe_load((ROOT / "charts" / "kind" / "values.yaml").read_text())
    assert reference == values["image"]["repository"]
    assert context == "."
    contents = named["dockerfile_contents"]
    assert contents.startswith((ROOT / "Dockerfile").read_text())
    added = contents.removeprefix((ROOT / "Dockerfile").read_text()).split()
    (script,) = (ROOT / word for word in added if word.endswith(".sh"))
    assert script.stat().st_mode & 0o111
    # The build's context holds the script: what is not listed is left out.
    assert f"!{script.relative_to(ROOT)}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_changes_of_code_are_copied_and_changes_of_what_it_needs_make_an_image(declared: Declared) -> None:
    _, named = declared.only("docker_build")
    steps = named["live_update"]
    assert [step[0] for step in steps] == ["fall_back_on", "sync", "sync"]
    assert set(steps[0][1]) == {"pyproject.toml", "requirements", "migrations"}
    for _, source, target in steps[1:]:
        assert (ROOT / source / "__init__.py").is_file()
        assert target == f"/live/{Path(source).name}"
    for path in steps[0][1]:
        assert (ROOT / path).exists()


def test_the_chart_takes_the_image_and_runs_from_the_volume(declared: Declared) -> None:
    (name, chart), named = declared.only("helm_resource")
    assert (name, chart, named["namespace"]) == ("metacore", "charts/metacore", "metacore")
    assert named["image_deps"] == [declared.only("docker_build")[0][0]]
    assert [tuple(key) for key in named["image_keys"]] == [("image.repository", "image.tag")]
    files = [flag.removeprefix("--values=") for flag in named["flags"] if flag.startswith("--values=")]
    values: dict[str, Any] = {}
    for file in files:
        for key, value in yaml.safe_load((ROOT / file).read_text()).items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    objects = render(values)
    for component in ("kernel", "operator"):
        assert {"name": "PYTHONPATH", "value": "/live"} in container(objects, component)["env"]
        assert {"name": "live", "mountPath": "/live"} in container(objects, component)["volumeMounts"]
        assert {"name": "live", "emptyDir": {}} in pod(objects, component)["spec"]["volumes"]
    assert all(mount["name"] != "live" for mount in container(objects, "migrate")["volumeMounts"])
