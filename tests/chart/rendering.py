"""Rendering the chart with helm, without a cluster, each set of values once."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from tests.chart import value_sets
from tests.cluster.build import build

CHART = Path(__file__).parents[2] / "charts" / "metacore"
RELEASE = "shop"
NAMESPACE = "backstage"
WORKLOADS = frozenset({"Deployment", "StatefulSet", "Job"})

Object: TypeAlias = dict[str, Any]


class Refused(Exception):
    """helm did not render; the message is what it said."""


@functools.cache
def helm() -> Path:
    """Built from its pinned module at the first call, unless it is there."""
    return build({"helm"}) / "helm"


def run_helm(*arguments: str, values: Mapping[str, Any] | None = None, environment: Mapping[str, str] = {}) -> str:
    """What helm printed. It sees no configuration of this machine, so no plugin and no cluster of it.

    Raises:
        Refused: with what helm wrote to standard error.
    """
    given = ["--values", "-"] if values is not None else []
    done = subprocess.run(
        [str(helm()), *arguments, *given],
        input=json.dumps(values) if values is not None else None,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Refused(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def render(
    values: Mapping[str, Any], *flags: str, release: str = RELEASE, namespace: str = NAMESPACE, chart: Path = CHART
) -> list[Object]:
    """The objects of a first installation with `values`.

    Raises:
        Refused: the schema or a check of the chart refuses them.
    """
    return objects_of(run_helm("template", release, str(chart), "--namespace", namespace, *flags, values=values))


@functools.cache
def rendered(name: str) -> list[Object]:
    """The objects of one of `value_sets`; everybody gets the same, so nobody changes them."""
    return render(value_sets.ALL[name])


def objects_of(manifest: str) -> list[Object]:
    return [item for item in yaml.load_all(manifest, Loader=_StrictLoader) if item is not None]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    found = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)} of {[_title(item) for item in objects]}"
    return found[0]


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """The pod templates by the component that they say they are."""
    for item in objects:
        if item["kind"] in WORKLOADS:
            template = item["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def pod(objects: Sequence[Object], component: str) -> Object:
    return dict(pods(objects))[component]


def container(objects: Sequence[Object], component: str) -> Object:
    containers = pod(objects, component)["spec"]["containers"]
    assert len(containers) == 1
    return dict(containers[0])


def environment(objects: Sequence[Object], component: str) -> dict[str, Any]:
    """Variables of a component's container: a text, or where it comes from."""
    entries = container(objects, component)["env"]
    variables = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}
    assert len(variables) == len(entries), "a variable is set twice"
    return variables


def _title(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key that stands twice in a mapping, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{sorted(twice)} twice in a mapping{node.start_mark}"
        return super().construct_mapping(node, deep)
