"""Values that make no sense are refused in words that help; what is accepted is described, and has a default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from tests.chart import generate
from tests.chart.rendering import CHART, Refused, render
from tests.chart.value_sets import DEVELOPMENT, EXTERNAL, KEY

from metacore.api import addons
from metacore.api.uploads import FORM_OVERHEAD
from metacore.bundle.signature import MAX_SIGNATURE_BYTES
from metacore.dynamic import imports
from metacore.dynamic.import_files import ImportLimits
from metacore.settings import Settings

SCHEMA = json.loads(generate.SCHEMA.read_text("utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

REFUSED_BY_SCHEMA: Mapping[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    "an unknown value below": ({"kernel": {"replica": 3}}, "at '/kernel': additional properties 'replica' not allowed"),
    "a word for a number": ({"kernel": {"replicas": "three"}}, "at '/kernel/replicas': got string, want integer"),
    "a negative number": ({"kernel": {"replicas": -1}}, "at '/kernel/replicas': minimum"),
    "a word for the mode": ({"enforce": "yes"}, "at '/enforce': got string, want"),
    "a name for a proxy": ({"kernel": {"trustedProxies": ["proxy"]}}, "at '/kernel/trustedProxies/0'"),
    "everybody as a proxy": ({"kernel": {"trustedProxies": ["*"]}}, "at '/kernel/trustedProxies/0'"),
    "a misspelt setting": (
        {"settings": {"METACORE_POOLSIZE": 3}},
        "at '/settings': additional properties 'METACORE_POOLSIZE' not allowed",
    ),
    "a setting out of range": ({"settings": {"METACORE_POOL_SIZE": 0}}, "at '/settings/METACORE_POOL_SIZE': minimum"),
    "a setting that the chart sets": (
        {"settings": {"METACORE_PORT": 9000}},
        "additional properties 'METACORE_PORT' not allowed",
    ),
    "a secret among the settings": (
        {"settings": {"METACORE_MASTER_KEY": "00"}},
        "additional properties 'METACORE_MASTER_KEY' not allowed",
    ),
    "a foreign setting of the operator": (
        {"operator": {"settings": {"PATH": "/"}}},
        "at '/operator/settings': additional properties 'PATH' not allowed",
    ),
    "a setting of the operator that the chart sets": (
        {"operator": {"settings": {"METACORE_OPERATOR_TENANCY": "[]"}}},
        "additional properties 'METACORE_OPERATOR_TENANCY' not allowed",
    ),
    "a key that is none": ({"trust": {"keys": [KEY[1:]]}}, "at '/trust/keys/0'"),
    "a digest that is none": ({"image": {"digest": "sha256:123"}}, "at '/image/digest'"),
    "a tag in the repository's place": ({"image": {"repository": "Metacore:1"}}, "at '/image/repository'"),
    "root": ({"security": {"runAsUser": 0}}, "at '/security/runAsUser': minimum"),
    "a folder of the node": (
        {"kernel": {"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}},
        "additional properties 'hostPath' not allowed",
    ),
    "a volume of two kinds": (
        {"operator": {"sources": {"volume": {"emptyDir": {}, "configMap": {"name": "addons"}}}}},
        "at '/operator/sources/volume'",
    ),
    "a size that is none": ({"postgresql": {"persistence": {"size": "big"}}}, "at '/postgresql/persistence/size'"),
    "a URL for a host": ({"ingress": {"hosts": ["https://api.example.com"]}}, "at '/ingress/hosts/0'"),
    "a relative path": ({"ingress": {"paths": ["api"]}}, "at '/ingress/paths/0'"),
    "a port beyond the last": ({"service": {"port": 70000}}, "at '/service/port': maximum"),
    "an unknown type of Service": ({"service": {"type": "External"}}, "at '/service/type': value must be one of"),
    "a namespace that is none": (
        {"operator": {"watch": {"namespaces": ["Team_A"]}}},
        "at '/operator/watch/namespaces/0'",
    ),
    "a namespace twice": ({"operator": {"watch": {"namespaces": ["a", "a"]}}}, "at '/operator/watch/namespaces'"),
    "a rule of tenancy without organizations": (
        {"operator": {"tenancy": [{"namespaces": ["team-a"]}]}},
        "missing property 'organizations'",
    ),
    "a * inside the name of an organization": (
        {"operator": {"tenancy": [{"namespaces": ["team-*"], "organizations": ["Acme*"]}]}},
        "at '/operator/tenancy/0/organizations/0'",
    ),
    "no surge, where none may be unavailable": (
        {"kernel": {"rollout": {"maxSurge": 0}}},
        "at '/kernel/rollout/maxSurge'",
    ),
    "a misspelt resource": (
        {"kernel": {"resources": {"limit": {"memory": "1Gi"}}}},
        "at '/kernel/resources': additional properties 'limit' not allowed",
    ),
}

REFUSED_BY_CHECKS: Mapping[str, tuple[dict[str, Any], str]] = {
    "no database": ({}, "set database.existingSecret to a Secret with the URLs of your PostgreSQL"),
    "two databases": ({**EXTERNAL, **DEVELOPMENT}, "choose one"),
    "a pooler without a direct URL": (
        {"database": {"existingSecret": "database", "transactionPooler": True}},
        "set database.keys.direct",
    ),
    "the owner's URL for kernels": (
        {"database": {"existingSecret": "database", "keys": {"kernel": "owner-url"}}},
        "kernels must not get the owner's URL",
    ),
    "keys for a Secret that is not the chart's": (
        {**EXTERNAL, "trust": {"existingSecret": "publishers", "keys": [KEY]}},
        "leave trust.keys out",
    ),
    "fewer pods at most than at least": (
        {**EXTERNAL, "kernel": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
        "minReplicas 5 is above maxReplicas 2",
    ),
    "the owner's URL among the kernel's variables": (
        {**EXTERNAL, "kernel": {"extraEnv": [{"name": "METACORE_OWNER_DATABASE_URL", "value": "postgresql://"}]}},
        "kernel.extraEnv: METACORE_OWNER_DATABASE_URL",
    ),
    "the mode among the kernel's variables": (
        {**EXTERNAL, "kernel": {"extraEnv": [{"name": "METACORE_ENFORCE", "value": "1"}]}},
        "kernel.extraEnv: METACORE_ENFORCE",
    ),
    "the trust among the operator's variables": (
        {**EXTERNAL, "operator": {"extraEnv": [{"name": "MARKETPLACE_PUBKEY", "value": KEY}]}},
        "operator.extraEnv: MARKETPLACE_PUBKEY",
    ),
    "the mode as an annotation": (
        {**EXTERNAL, "kernel": {"podAnnotations": {"metacore.dev/mode": "enforce"}}},
        "metacore.dev/mode is the operator's",
    ),
    "a label that selects": (
        {**EXTERNAL, "commonLabels": {"app.kubernetes.io/component": "kernel"}},
        "app.kubernetes.io/component is set by the chart",
    ),
    "an Ingress without hosts": ({**EXTERNAL, "ingress": {"enabled": True}}, "ingress.hosts"),
    "a route without a Gateway": ({**EXTERNAL, "httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    "an alert that there is not": (
        {**EXTERNAL, "metrics": {"rules": {"enabled": True, "disabled": ["MetacoreUp"]}}},
        "there is no alert MetacoreUp",
    ),
}


@pytest.mark.parametrize("what", list(REFUSED_BY_SCHEMA))
def test_the_schema_refuses(what: str) -> None:
    values, message = REFUSED_BY_SCHEMA[what]
    with pytest.raises(Refused) as refused:
        render({**EXTERNAL, **values})
    assert message in str(refused.value)


@pytest.mark.parametrize("what", list(REFUSED_BY_CHECKS))
def test_the_chart_refuses(what: str) -> None:
    values, message = REFUSED_BY_CHECKS[what]
    with pytest.raises(Refused) as refused:
        render(values)
    assert message in str(refused.value)


def test_as_part_of_another_chart_it_takes_what_helm_hands_to_all() -> None:
    assert render({**EXTERNAL, "global": {"region": "eu"}})


def test_every_value_is_described() -> None:
    for path, described in generate.leaves(SCHEMA):
        assert described["description"].endswith("."), path


def test_every_described_value_has_a_default_and_every_default_is_described() -> None:
    assert {path for path, _ in generate.leaves(SCHEMA)} == set(_paths(VALUES, SCHEMA))


def test_no_mapping_with_fixed_names_takes_others() -> None:
    assert [path for path, described in _mappings(SCHEMA) if described.get("additionalProperties") is not False] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (generate.SCHEMA, generate.schema_text),
        (generate.PAGE, generate.page_text),
    ],
    ids=["schema", "page"],
)
def test_what_is_generated_is_fresh(path: Any, text: Any) -> None:
    assert path.read_text("utf-8") == text(), "run python -m tests.chart.generate"


def _paths(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        below = schema["properties"].get(name, {})
        found += _paths(value, below, here) if "properties" in below else [here]
    return found


def _mappings(schema: Mapping[str, Any], path: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    if "properties" in schema:
        found.append((path, schema))
    for name, below in schema.items():
        if isinstance(below, dict):
            found += _mappings(below, f"{path}/{name}")
    return found


def test_the_uploads_that_come_at_once_fit_into_temporary_files() -> None:
    """A pod that writes more than its volume may hold is evicted, and with it all that it served."""
    assert VALUES["kernel"]["cacheSizeLimit"] == "1Gi"
    largest = Settings.model_fields["max_upload_bytes"].default
    each = max(largest + MAX_SIGNATURE_BYTES, ImportLimits().max_bytes) + FORM_OVERHEAD
    assert (addons.RECEIVED_AT_ONCE + imports.RECEIVED_AT_ONCE) * each < 2**30
