"""Every pod meets the restricted profile of Pod Security, and holds no credential that it does not need."""

from __future__ import annotations

import json

import pytest
from tests.chart import value_sets
from tests.chart.rendering import environment, of_kind, pod, pods, rendered

RESTRICTED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

each_set = pytest.mark.parametrize("name", list(value_sets.ALL))


@each_set
def test_every_pod_is_restricted(name: str) -> None:
    for component, template in pods(rendered(name)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in container.get("ports", []))


@each_set
def test_every_container_says_what_it_needs(name: str) -> None:
    for _, template in pods(rendered(name)):
        for container in template["spec"]["containers"]:
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_ids_are_those_of_the_image_unless_the_platform_gives_them() -> None:
    for component, user in (("kernel", 10001), ("operator", 10001), ("migrate", 10001), ("postgresql", 999)):
        context = pod(rendered("development"), component)["spec"]["securityContext"]
        assert context["runAsUser"] == context["runAsGroup"] == user
    for component in ("kernel", "operator", "migrate"):
        context = pod(rendered("ids_of_the_platform"), component)["spec"]["securityContext"]
        assert set(context) == {"runAsNonRoot", "seccompProfile"}


@each_set
def test_only_the_operator_gets_a_token(name: str) -> None:
    objects = rendered(name)
    accounts = {item["metadata"]["name"]: item for item in of_kind(objects, "ServiceAccount")}
    used = set()
    for component, template in pods(objects):
        spec = template["spec"]
        used.add(spec["serviceAccountName"])
        assert spec["automountServiceAccountToken"] is (component == "operator"), component
    assert used == set(accounts)
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


@each_set
def test_no_service_of_the_namespace_leaks_into_the_environment(name: str) -> None:
    """A Service called metacore would otherwise set METACORE_PORT to a URL."""
    assert all(template["spec"]["enableServiceLinks"] is False for _, template in pods(rendered(name)))


@each_set
def test_kernels_never_get_the_owners_credentials(name: str) -> None:
    objects = rendered(name)
    owner = environment(objects, "migrate")["METACORE_OWNER_DATABASE_URL"]["secretKeyRef"]
    assert owner == environment(objects, "operator")["METACORE_OWNER_DATABASE_URL"]["secretKeyRef"]
    kernel = environment(objects, "kernel")
    assert "METACORE_OWNER_DATABASE_URL" not in kernel
    assert owner not in [value["secretKeyRef"] for value in kernel.values() if "secretKeyRef" in value]
    spec = pod(objects, "kernel")["spec"]
    mounted = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
    assert owner["name"] not in mounted
    assert "envFrom" not in spec["containers"][0]


@each_set
def test_each_pod_gets_only_the_secrets_of_its_work(name: str) -> None:
    objects = rendered(name)
    wanted = {
        "kernel": {
            "METACORE_DATABASE_URL",
            "METACORE_DIRECT_DATABASE_URL",
            "METACORE_JWT_SECRETS",
            "METACORE_MASTER_KEY",
            "LICENSE",
        },
        "operator": {"METACORE_OWNER_DATABASE_URL", "METACORE_MASTER_KEY", "LICENSE"},
        "migrate": {"METACORE_OWNER_DATABASE_URL"},
        "postgresql": {"POSTGRES_PASSWORD", "METACORE_OWNER_PASSWORD", "METACORE_KERNEL_PASSWORD"},
    }
    for component, _ in pods(objects):
        variables = environment(objects, component)
        assert {key for key, value in variables.items() if "secretKeyRef" in value} <= wanted[component]


@each_set
def test_no_secret_stands_outside_of_a_secret(name: str) -> None:
    objects = rendered(name)
    secret = [
        value
        for item in of_kind(objects, "Secret")
        if not item["metadata"]["name"].endswith("-trust")
        for value in item["data"].values()
    ]
    rest = json.dumps([item for item in objects if item["kind"] != "Secret"])
    assert not [value for value in secret if value in rest]
