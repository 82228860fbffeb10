"""What each service account of a release may do, asked of the API server: what is listed and no more."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
from tests.chart.test_roles import ADDON_RULES, REFERENCE_RULES, RELEASE_RULES, Rule
from tests.cluster.cluster import Cluster
from tests.cluster.release import Release

EVERYBODY: set[Rule] = {
    # Who am I, and may I: given to every login, about itself only.
    ("authentication.k8s.io", "selfsubjectreviews", "", "create"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "", "create"),
    # Public certificates, given to every service account by system:cluster-trust-bundle-discovery.
    ("certificates.k8s.io", "clustertrustbundles", "", "get list watch"),
}
PATHS = {
    # Discovery, version and health, which Kubernetes shows to every login.
    *("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/"),
    *("/healthz", "/livez", "/readyz", "/.well-known/openid-configuration", "/.well-known/openid-configuration/"),
    *("/openid/v1/jwks", "/openid/v1/jwks/"),
}


def named(rules: set[Rule]) -> set[Rule]:
    """The rules that the chart's own tests list, for a release called `metacore`."""
    return {
        (
            group,
            resource,
            " ".join(sorted(names.replace("shop-", "metacore-").split())),
            " ".join(sorted(verbs.split())),
        )
        for group, resource, names, verbs in rules
    }


RELEASE = named(RELEASE_RULES)
ADDONS = named(ADDON_RULES | REFERENCE_RULES)


def rights(cluster: Cluster, account: str, home: str, namespace: str) -> tuple[set[Rule], set[str]]:
    """What `account` of the namespace `home` may do in `namespace`, and which paths it may get."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = cluster.kubectl(
        "create",
        "--validate=false",
        "-f",
        "-",
        "-o",
        "json",
        f"--as=system:serviceaccount:{home}:{account}",
        stdin=json.dumps(review),
    )
    status = json.loads(answer)["status"]
    assert not status["incomplete"], status
    rules = {
        (group, resource, " ".join(sorted(rule.get("resourceNames", []))), " ".join(sorted(rule["verbs"])))
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert all(set(rule["verbs"]) == {"get"} for rule in status["nonResourceRules"])
    return rules, {path for rule in status["nonResourceRules"] for path in rule["nonResourceURLs"]}


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Iterator[Release]:
    """A release as the values' defaults make it, which watches its own namespace."""
    found = Release(cluster, f"rights-{uuid.uuid4().hex[:8]}")
    try:
        found.install({"crds": {"install": False}, "kernel": {"replicas": 1}, "operator": {"replicas": 1}})
        yield found
    finally:
        found.uninstall()


def test_each_account_may_do_what_is_listed_and_no_more(cluster: Cluster, alone: Release) -> None:
    home = alone.namespace
    accounts = {item.partition("/")[2] for item in alone.kubectl("get", "serviceaccounts", "-o", "name").split()}
    assert accounts == {"default", "metacore-kernel", "metacore-operator", "metacore-migrate"}
    for account in accounts:
        here, paths = rights(cluster, account, home, home)
        elsewhere, _ = rights(cluster, account, home, "default")
        wanted = RELEASE | ADDONS if account == "metacore-operator" else set()
        assert here == wanted | EVERYBODY, account
        assert elsewhere == EVERYBODY, account
        assert paths <= PATHS, account


def test_pods_that_need_no_token_have_none(alone: Release) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    found = {}
    for component in ("kernel", "operator"):
        (pod,) = alone.pods(component)
        test = f"import os; print(os.path.exists({token!r}))"
        found[component] = alone.kubectl("exec", pod, "--", "python3", "-c", test).strip()
    assert found == {"kernel": "False", "operator": "True"}
