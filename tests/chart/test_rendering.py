"""Every set of values gives objects that an API server could take, and helm's own lint has nothing to say."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tests.chart import value_sets
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, WORKLOADS, of_kind, render, rendered, run_helm

CLUSTER_SCOPED = frozenset({"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"})
NAMED_OTHERWISE = CLUSTER_SCOPED | {"Role", "RoleBinding"}
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
ROLE_NAME = re.compile(r"[-a-z0-9.:]{1,253}")
LONGEST = "a-release-with-the-longest-name-that-helm-still-takes"

each_set = pytest.mark.parametrize("name", list(value_sets.ALL))


@each_set
def test_lint_has_nothing_to_say(name: str) -> None:
    printed = run_helm("lint", "--strict", str(CHART), values=value_sets.ALL[name])
    assert [line for line in printed.splitlines() if line.startswith("[")] == [
        "[INFO] Chart.yaml: icon is recommended",
    ]


@each_set
def test_no_object_is_there_twice(name: str) -> None:
    seen = Counter(
        (item["apiVersion"], item["kind"], item["metadata"].get("namespace", NAMESPACE), item["metadata"]["name"])
        for item in rendered(name)
    )
    assert [title for title, count in seen.items() if count > 1] == []


@each_set
def test_names_and_labels_are_valid_and_say_whose_they_are(name: str) -> None:
    for item in rendered(name):
        pattern = ROLE_NAME if item["kind"] in NAMED_OTHERWISE else DNS_LABEL
        assert pattern.fullmatch(item["metadata"]["name"]), item["metadata"]["name"]
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/name"] == "metacore"
        assert all(re.fullmatch(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", value) for value in labels.values())


@each_set
def test_only_roles_leave_the_namespace_of_the_release(name: str) -> None:
    for item in rendered(name):
        if item["kind"] not in NAMED_OTHERWISE:
            assert item["metadata"].get("namespace", NAMESPACE) == NAMESPACE


@each_set
def test_nothing_is_null_or_a_number_where_text_is_needed(name: str) -> None:
    for item in rendered(name):
        texts = [item["metadata"].get("annotations", {}), item["metadata"]["labels"]]
        texts += [entry for template in _environments(item) for entry in template]
        if item["kind"] in {"ConfigMap", "Secret"}:
            texts.append(item.get("data", {}))
        for mapping in texts:
            assert all(isinstance(value, str) for key, value in mapping.items() if key != "valueFrom"), mapping
        assert None not in _leaves(item)


@pytest.mark.parametrize("release", ["metacore", LONGEST, "with.dots"])
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    objects = render(value_sets.ALL["everything"], release=release)
    assert all(len(item["metadata"]["name"]) <= 63 for item in objects if item["kind"] not in NAMED_OTHERWISE)
    for service in of_kind(objects, "Service"):
        assert DNS_LABEL.fullmatch(service["metadata"]["name"])


def test_the_name_can_be_chosen() -> None:
    names = {item["metadata"]["name"] for item in rendered("another_name") if item["kind"] not in NAMED_OTHERWISE}
    assert all(name == "addons" or name.startswith("addons-") for name in names)


def test_two_releases_share_nothing_but_the_definitions() -> None:
    values = value_sets.ALL["everything"]
    first, second = (
        {
            (item["kind"], item["metadata"].get("namespace", namespace), item["metadata"]["name"])
            for item in render(values, release=release, namespace=namespace)
            if item["kind"] != "CustomResourceDefinition"
        }
        for release, namespace in (("b-c", "a"), ("c", "a-b"))
    )
    assert not first & second


def _environments(item: dict[str, object]) -> list[list[dict[str, object]]]:
    if item["kind"] not in WORKLOADS:
        return []
    return [container["env"] for container in item["spec"]["template"]["spec"]["containers"]]  # type: ignore[index]


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
