"""What the rendered objects hold together: selectors, probes, rollouts, network, environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.chart import generate, value_sets
from tests.chart.rendering import (
    NAMESPACE,
    WORKLOADS,
    Object,
    container,
    environment,
    named,
    of_kind,
    pod,
    pods,
    render,
    rendered,
)
from tests.chart.value_sets import EXTERNAL

from metacore.cli.serve import GRACEFUL_SECONDS
from metacore.settings import Settings
from metacore.version import __version__
from metacore_operator.settings import OperatorSettings

each_set = pytest.mark.parametrize("name", list(value_sets.ALL))


def matched(objects: list[Object], labels: dict[str, str]) -> set[str]:
    """Components whose pods have these labels."""
    return {
        component for component, template in pods(objects) if labels.items() <= template["metadata"]["labels"].items()
    }


@each_set
def test_each_selector_means_the_pods_of_one_component(name: str) -> None:
    objects = rendered(name)
    for item in objects:
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        if item["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget"}:
            assert matched(objects, item["spec"]["selector"]["matchLabels"]) == {component}
        elif item["kind"] == "Service":
            assert matched(objects, item["spec"]["selector"]) == {component}
    for component, template in pods(objects):
        for constraint in template["spec"].get("topologySpreadConstraints", []):
            assert matched(objects, constraint["labelSelector"]["matchLabels"]) == {component}


@each_set
def test_ports_and_volumes_are_there_under_their_names(name: str) -> None:
    objects = rendered(name)
    for component, template in pods(objects):
        spec = template["spec"]
        (program,) = spec["containers"]
        claims = [
            claim["metadata"]["name"]
            for item in of_kind(objects, "StatefulSet")
            if component == "postgresql"
            for claim in item["spec"].get("volumeClaimTemplates", [])
        ]
        volumes = [volume["name"] for volume in spec["volumes"]] + claims
        assert len(volumes) == len(set(volumes))
        assert {mount["name"] for mount in program["volumeMounts"]} == set(volumes)
        ports = {port["name"] for port in program.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in program.get(probe, {}):
                assert program[probe]["httpGet"]["port"] in ports
    for service in of_kind(objects, "Service"):
        (component,) = matched(objects, service["spec"]["selector"])
        ports = {port["name"] for port in container(objects, component)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@each_set
def test_what_pods_refer_to_is_rendered_or_given(name: str) -> None:
    """Secrets and ConfigMaps that the chart names are its own, or were named in the values."""
    objects = rendered(name)
    own = {(item["kind"], item["metadata"]["name"]) for item in objects}
    given = json.dumps(value_sets.ALL[name])
    for component, template in pods(objects):
        for variable in environment(objects, component).values():
            if isinstance(variable, dict) and "secretKeyRef" in variable:
                reference = variable["secretKeyRef"]
                if ("Secret", reference["name"]) in own:
                    assert reference["key"] in named(objects, "Secret", reference["name"])["data"]
                else:
                    assert f'"{reference["name"]}"' in given
        for volume in template["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in own or f'"{volume["configMap"]["name"]}"' in given


def test_kernels_are_replaced_one_after_the_other_and_drain_before_they_end() -> None:
    for name in ("external", "alone"):
        deployment = named(rendered(name), "Deployment", "shop-kernel")["spec"]
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        program = container(rendered(name), "kernel")
        drain = program.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert drain == value_sets.ALL[name].get("kernel", {}).get("drainSeconds", 5)
        assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + GRACEFUL_SECONDS + 5


def test_an_autoscaler_and_the_deployment_do_not_quarrel_about_replicas() -> None:
    objects = rendered("autoscaled")
    assert "replicas" not in named(objects, "Deployment", "shop-kernel")["spec"]
    scaler = named(objects, "HorizontalPodAutoscaler", "shop-kernel")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-kernel"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 30)
    assert named(rendered("external"), "Deployment", "shop-kernel")["spec"]["replicas"] == 2


def test_the_commands_are_those_of_the_image() -> None:
    arguments = {component: template["spec"]["containers"][0].get("args") for component, template in _all_pods()}
    assert {key: arguments[key] for key in ("kernel", "operator", "migrate")} == {
        "kernel": ["serve"],
        "operator": ["operator"],
        "migrate": ["migrate"],
    }


def test_the_image_is_of_this_version_unless_a_digest_says_otherwise() -> None:
    for component in ("kernel", "operator", "migrate"):
        assert container(rendered("external"), component)["image"] == f"metacore:{__version__}"
        by_digest = container(rendered("image_by_digest"), component)
        assert by_digest["image"] == f"registry.example.com:5000/metacore@{value_sets.DIGEST}"
        assert by_digest["imagePullPolicy"] == "Always"
        assert pod(rendered("image_by_digest"), component)["spec"]["imagePullSecrets"] == [{"name": "registry"}]


@each_set
def test_the_chart_never_renders_the_annotation_of_the_mode(name: str) -> None:
    """The operator sets it. Were it rendered, every upgrade would set the mode back."""
    template = pod(rendered(name), "kernel")
    assert "metacore.dev/mode" not in template["metadata"].get("annotations", {})
    source = environment(rendered(name), "kernel")["METACORE_ENFORCE"]
    assert source == {"fieldRef": {"fieldPath": "metadata.annotations['metacore.dev/mode']"}}


@pytest.mark.parametrize(
    ("name", "data"),
    [("external", None), ("enforced", {"METACORE_ENFORCE": "1"}), ("shadowed", {"METACORE_ENFORCE": "0"})],
)
def test_the_wish_is_written_only_when_the_values_have_one(name: str, data: Any) -> None:
    assert named(rendered(name), "ConfigMap", "shop-config").get("data") == data


def test_the_wish_restarts_nothing() -> None:
    assert list(_templates("enforced")) == list(_templates("external"))


def test_a_new_version_of_the_chart_alone_restarts_nothing() -> None:
    for _, template in pods(rendered("everything")):
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(template["metadata"]["labels"])


def test_variables_of_a_kernel_are_settings_that_exist() -> None:
    known = {f"METACORE_{name.upper()}" for name in Settings.model_fields}
    for name in ("everything", "settings", "secrets_of_its_own", "ingress"):
        variables = {key for key in environment(rendered(name), "kernel") if key.startswith("METACORE_")}
        assert variables <= known
    assert set(environment(rendered("external"), "migrate")) <= known


def test_settings_arrive_as_they_were_written() -> None:
    kernel, operator = (environment(rendered("settings"), component) for component in ("kernel", "operator"))
    assert {key: kernel[key] for key in value_sets.ALL["settings"]["settings"]} == {
        "METACORE_POOL_SIZE": "20",
        "METACORE_MAX_UPLOAD_BYTES": "134217728",
        "METACORE_HEARTBEAT_INTERVAL": "1.5",
        "METACORE_REGISTRATION": "false",
        "METACORE_LOG_LEVEL": "debug",
    }
    assert operator["METACORE_OPERATOR_WORKERS"] == "4"


def test_trusted_proxies_arrive_as_a_list_that_the_kernel_reads() -> None:
    written = environment(rendered("ingress"), "kernel")["METACORE_TRUSTED_PROXIES"]
    assert Settings.model_validate({"trusted_proxies": written}).trusted_proxies == [
        "10.244.0.0/16",
        "fd00:10:244::/56",
        "192.0.2.7",
    ]
    assert "METACORE_TRUSTED_PROXIES" not in environment(rendered("external"), "kernel")


def test_every_setting_of_a_kernel_can_be_set_or_is_the_charts_own() -> None:
    schema = json.loads(generate.SCHEMA.read_text("utf-8"))
    settable = set(schema["$defs"]["settings"]["properties"])
    own = {
        "METACORE_DATABASE_URL",
        "METACORE_DIRECT_DATABASE_URL",
        "METACORE_TRANSACTION_POOLER",
        "METACORE_JWT_SECRETS",
        "METACORE_MASTER_KEY",
        "METACORE_ENFORCE",
        "METACORE_MODE_FIXED",
        "METACORE_PORT",
        "METACORE_POD_NAME",
        "METACORE_CACHE_DIR",
    }
    assert own | settable >= set(environment(rendered("secrets_of_its_own"), "kernel")) >= own
    assert not own & settable


def test_the_operator_is_told_what_is_its() -> None:
    variables = environment(rendered("several_namespaces"), "operator")
    assert variables["METACORE_OPERATOR_CONFIG_MAP"] == "shop-config"
    assert variables["METACORE_OPERATOR_TRUST_SECRET"] == "shop-trust"
    assert variables["METACORE_OPERATOR_KERNEL_DEPLOYMENT"] == "shop-kernel"
    assert variables["METACORE_OPERATOR_LEASE"] == "shop-operator"
    assert variables["METACORE_OPERATOR_CLUSTER_WIDE"] == "false"
    assert variables["METACORE_OPERATOR_NAMESPACES"] == "team-a,team-b"
    assert json.loads(variables["METACORE_OPERATOR_TENANCY"]) == [
        {"namespaces": ["team-*"], "organizations": ["Acme", "Globex"]}
    ]
    assert environment(rendered("cluster_wide"), "operator")["METACORE_OPERATOR_CLUSTER_WIDE"] == "true"


def test_an_operator_that_lacks_something_takes_no_part_but_is_not_started_anew() -> None:
    program = container(rendered("external"), "operator")
    paths = {name: program[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_variables_of_the_operator_are_settings_that_exist() -> None:
    known = {f"METACORE_OPERATOR_{name.upper()}" for name in OperatorSettings.model_fields}
    known |= {f"METACORE_{name.upper()}" for name in Settings.model_fields} | {"ALLOW_UNSIGNED_BUNDLES"}
    for name in ("settings", "sources", "cluster_wide", "careful"):
        assert set(environment(rendered(name), "operator")) <= known


def test_what_stands_before_enforcing_is_handed_on_and_no_limit_is_none() -> None:
    careful, plain = (environment(rendered(name), "operator") for name in ("careful", "external"))
    assert careful["METACORE_OPERATOR_CANARY_SECONDS"] == "600"
    assert careful["METACORE_OPERATOR_MOST_VIOLATIONS"] == "0"
    assert careful["METACORE_OPERATOR_VIOLATION_WINDOW"] == "86400"
    assert plain["METACORE_OPERATOR_CANARY_SECONDS"] == "0"
    assert "METACORE_OPERATOR_MOST_VIOLATIONS" not in plain


def test_unless_told_otherwise_only_the_releases_namespace_may_target_organizations() -> None:
    variables = environment(rendered("external"), "operator")
    assert variables["METACORE_OPERATOR_NAMESPACES"] == NAMESPACE
    assert json.loads(variables["METACORE_OPERATOR_TENANCY"]) == [{"namespaces": [NAMESPACE], "organizations": ["*"]}]


def test_bundles_of_a_volume_are_read_only() -> None:
    objects = rendered("sources")
    assert {"name": "addons", "mountPath": "/addons", "readOnly": True} in container(objects, "operator")[
        "volumeMounts"
    ]
    assert environment(objects, "operator")["METACORE_OPERATOR_ADDONS_ROOT"] == "/addons"
    assert "METACORE_OPERATOR_ADDONS_ROOT" not in environment(rendered("external"), "operator")


@each_set
def test_every_pod_is_under_default_deny_and_a_policy_of_its_own(name: str) -> None:
    objects = rendered(name)
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    if name == "open_network":
        assert policies == {}
        return
    deny = policies.pop(next(key for key in policies if key.endswith("-default-deny")))
    everybody = {component for component, _ in pods(objects)}
    assert matched(objects, deny["podSelector"]["matchLabels"]) == everybody
    assert deny.keys() == {"podSelector", "policyTypes"}
    selected = [matched(objects, policy["podSelector"]["matchLabels"]) for policy in policies.values()]
    assert sorted(map(sorted, selected)) == [[component] for component in sorted(everybody)]
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in [deny, *policies.values()])


def test_the_development_database_is_reached_by_those_who_need_it_alone() -> None:
    objects = rendered("development")
    policy = named(objects, "NetworkPolicy", "shop-postgresql")["spec"]
    (rule,) = policy["ingress"]
    peers = [matched(objects, peer["podSelector"]["matchLabels"]) for peer in rule["from"]]
    assert sorted(map(sorted, peers)) == [["kernel"], ["migrate"], ["operator"]]
    assert "egress" not in policy


def test_migrations_reach_names_and_the_database_only() -> None:
    egress = named(rendered("narrow_network"), "NetworkPolicy", "shop-migrate")["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[53, 53], [5432, 6432]]
    assert egress[1]["to"] == [{"ipBlock": {"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"]}}]


def test_kernels_reach_the_internet_but_no_private_address_unless_told() -> None:
    def blocks(name: str) -> list[dict[str, Any]]:
        egress = named(rendered(name), "NetworkPolicy", "shop-kernel")["spec"]["egress"]
        return [peer["ipBlock"] for rule in egress for peer in rule.get("to", []) if "ipBlock" in peer]

    internet = next(block for block in blocks("external") if block["cidr"] == "0.0.0.0/0")
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(internet["except"])
    assert blocks("narrow_network") == [{"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"]}]


def test_the_published_paths_leave_the_metrics_inside() -> None:
    for values in (
        value_sets.ALL["ingress"],
        {**EXTERNAL, "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
    ):
        published = [path for item in of_kind(render(values), "Ingress", "HTTPRoute") for path in _prefixes(item)]
        assert "/api" in published
        assert not [path for path in published if "/metrics".startswith(path) or "/readyz".startswith(path)]


def test_routes_lead_to_the_service() -> None:
    ingress = named(rendered("ingress"), "Ingress", "shop")["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ["api.example.com", "api.example.org"]
    backends = [path["backend"]["service"] for rule in ingress["rules"] for path in rule["http"]["paths"]]
    assert all(backend == {"name": "shop", "port": {"name": "http"}} for backend in backends)
    route = named(rendered("gateway"), "HTTPRoute", "shop")["spec"]
    assert route["rules"][0]["backendRefs"] == [{"name": "shop", "port": 80}]
    assert named(rendered("load_balancer"), "Service", "shop")["spec"]["ports"][0]["port"] == 8080


@pytest.mark.parametrize("component", ["kernel", "operator", "migrate"])
def test_pods_go_where_the_values_say(component: str) -> None:
    spec = pod(rendered("everything"), component)["spec"]
    for key, value in value_sets.PLACEMENT.items():
        assert spec[key] == value


@pytest.mark.parametrize("component", ["kernel", "operator"])
def test_what_is_added_to_pods_arrives(component: str) -> None:
    extras, program = value_sets.EXTRAS, container(rendered("everything"), component)
    assert [entry for entry in program["env"] if entry in extras["extraEnv"]] == extras["extraEnv"]
    assert extras["extraVolumeMounts"][0] in program["volumeMounts"]
    template = pod(rendered("everything"), component)
    assert template["metadata"]["labels"]["team"] == "platform"
    assert template["metadata"]["labels"]["cost-center"] == "42"
    assert template["metadata"]["annotations"] == extras["podAnnotations"]


def _all_pods() -> Iterator[tuple[str, Object]]:
    return pods(rendered("development"))


def _templates(name: str) -> Iterator[Any]:
    for item in rendered(name):
        if item["kind"] in WORKLOADS:
            yield item["metadata"]["name"], item["spec"]


def _prefixes(item: Object) -> list[str]:
    if item["kind"] == "Ingress":
        return [path["path"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]]
    return [match["path"]["value"] for rule in item["spec"]["rules"] for match in rule["matches"]]
