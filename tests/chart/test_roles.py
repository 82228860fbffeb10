"""What the operator may do, rule by rule. A right that is added here is added knowingly."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart import value_sets
from tests.chart.rendering import NAMESPACE, of_kind, pod, rendered

Rule = tuple[str, str, str, str]
"""Group, resource, names (space separated; empty: any), verbs."""

RELEASE_RULES: set[Rule] = {
    ("", "configmaps", "shop-config", "get"),
    ("", "secrets", "shop-trust", "get list watch"),
    ("apps", "deployments", "shop-kernel", "get patch"),
    ("", "pods", "", "list"),
    ("metacore.dev", "moderollouts", "shop-kernel", "get"),
    ("metacore.dev", "moderollouts/status", "shop-kernel", "patch"),
    ("metacore.dev", "moderollouts", "", "create"),
    ("", "events", "", "create patch"),
    ("coordination.k8s.io", "leases", "shop-operator", "get update patch"),
    ("coordination.k8s.io", "leases", "", "create"),
}
ADDON_RULES: set[Rule] = {
    ("metacore.dev", "addons", "", "get list watch patch"),
    ("metacore.dev", "addons/status", "", "get patch"),
    ("metacore.dev", "addons/finalizers", "", "update"),
    ("", "events", "", "create patch"),
}
REFERENCE_RULES: set[Rule] = {
    ("", "configmaps", "", "get"),
    ("", "secrets", "", "get create patch"),
}


def granted(name: str) -> dict[str, set[Rule]]:
    """What the operator may do by namespace; `*` is the whole cluster."""
    objects = rendered(name)
    roles = {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item["rules"]
        for item in of_kind(objects, "Role", "ClusterRole")
    }
    account = pod(objects, "operator")["spec"]["serviceAccountName"]
    found: dict[str, set[Rule]] = {}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
        namespace = binding["metadata"].get("namespace", "")
        assert binding["kind"] == f"{binding['roleRef']['kind']}Binding"
        rules = roles.pop((binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]))
        found.setdefault(namespace or "*", set()).update(_flat(rules))
    assert roles == {}, "a role that nobody has"
    return found


@pytest.mark.parametrize("name", ["external", "namespace_only"])
def test_by_default_it_has_no_right_beyond_the_namespace_of_the_release(name: str) -> None:
    assert granted(name) == {NAMESPACE: RELEASE_RULES | ADDON_RULES | REFERENCE_RULES}


def test_nothing_need_be_created_outside_of_the_namespace_of_the_release() -> None:
    assert not of_kind(rendered("namespace_only"), "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")


def test_in_several_namespaces_it_has_a_role_in_each_and_no_references_in_the_releases_own() -> None:
    assert granted("several_namespaces") == {
        NAMESPACE: RELEASE_RULES,
        "team-a": ADDON_RULES | REFERENCE_RULES,
        "team-b": ADDON_RULES | REFERENCE_RULES,
    }


def test_cluster_wide_it_sees_addons_everywhere_and_references_where_it_was_told() -> None:
    assert granted("cluster_wide") == {
        NAMESPACE: RELEASE_RULES | REFERENCE_RULES,
        "shared": REFERENCE_RULES,
        "*": ADDON_RULES,
    }


def test_a_trust_secret_of_another_name_is_the_one_that_it_may_read() -> None:
    rules = granted("secrets_of_its_own")[NAMESPACE]
    assert ("", "secrets", "publishers", "get list watch") in rules
    assert not [rule for rule in rules if "shop-trust" in rule[2]]


@pytest.mark.parametrize("name", list(value_sets.ALL))
def test_no_rule_holds_a_wildcard_and_secrets_are_never_listed_but_the_one(name: str) -> None:
    for rules in granted(name).values():
        for group, resource, names, verbs in rules:
            assert "*" not in (group, resource, names, verbs)
            if resource == "secrets" and not names:
                assert set(verbs.split()) == {"get", "create", "patch"}


def _flat(rules: list[dict[str, Any]]) -> set[Rule]:
    return {
        (group, resource, " ".join(rule.get("resourceNames", [])), " ".join(rule["verbs"]))
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
