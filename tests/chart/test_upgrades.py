"""A second revision keeps what the first one made. helm asks a server for it; here that is `api_server`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.chart import api_server
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    RELEASE,
    WORKLOADS,
    Object,
    Refused,
    environment,
    named,
    objects_of,
    of_kind,
    render,
    rendered,
    run_helm,
)
from tests.chart.value_sets import DEVELOPMENT, EXTERNAL, KEY

from metacore.secrets import Sealer


def decoded(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def upgraded(
    folder: Path, values: Mapping[str, Any], secrets: list[Object], *, revision: int = 2, chart: Path = CHART
) -> list[Object]:
    """The objects of `revision`, where a server knows `secrets` and helm the revision before."""
    release = {
        "name": RELEASE,
        "version": revision - 1,
        "namespace": NAMESPACE,
        "info": {"status": "deployed"},
        "chart": {"metadata": {"name": "metacore", "version": "0.0.9", "apiVersion": "v2"}},
        "manifest": "",
    }
    history = folder / "releases.json"
    history.write_text(json.dumps([release]))
    known = {f"{NAMESPACE}/{secret['metadata']['name']}": secret for secret in secrets}
    with api_server.knowing(known) as url:
        printed = run_helm(
            "upgrade", RELEASE, str(chart), "--namespace", NAMESPACE, "--kube-apiserver", url,
            "--dry-run=server", "--output", "json",
            values=values,
            environment={"HELM_DRIVER": "memory", "HELM_MEMORY_DRIVER_DATA": str(history)},
        )  # fmt: skip
    return objects_of(json.loads(printed)["manifest"])


def test_generated_secrets_are_good_and_never_the_same() -> None:
    first, second = (decoded(named(render(EXTERNAL), "Secret", "shop-secrets")) for _ in range(2))
    sealer = Sealer(bytes.fromhex(first["master-key"]))
    assert sealer.open(sealer.seal(b"kept")) == b"kept"
    assert len(first["jwt-secrets"]) >= 43  # 256 bits of letters and digits.
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize(("values", "name"), [(EXTERNAL, "shop-secrets"), (DEVELOPMENT, "shop-database")])
def test_an_upgrade_keeps_the_generated_secrets(tmp_path: Path, values: dict[str, Any], name: str) -> None:
    before = named(render(values), "Secret", name)
    assert named(upgraded(tmp_path, values, [before]), "Secret", name)["data"] == before["data"]
    assert before["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_upgrade_adds_only_the_entry_that_is_missing(tmp_path: Path) -> None:
    before = named(render(EXTERNAL), "Secret", "shop-secrets")
    kept = {**before, "data": {"jwt-secrets": before["data"]["jwt-secrets"]}}
    after = named(upgraded(tmp_path, EXTERNAL, [kept]), "Secret", "shop-secrets")
    assert after["data"]["jwt-secrets"] == before["data"]["jwt-secrets"]
    Sealer(bytes.fromhex(decoded(after)["master-key"]))


def test_a_secret_of_its_own_is_not_rendered() -> None:
    assert not of_kind(rendered("secrets_of_its_own"), "Secret")


def test_the_urls_of_the_development_database_are_made_of_its_passwords() -> None:
    secret = decoded(named(rendered("development_with_direct_url"), "Secret", "shop-database"))
    at = "@shop-postgresql:5432/metacore"
    assert secret["owner-url"] == f"postgresql://metacore_owner:{secret['owner-password']}{at}"
    assert secret["kernel-url"] == f"postgresql://metacore_kernel:{secret['kernel-password']}{at}"
    assert secret["direct-url"] == secret["kernel-url"]
    assert len({secret[f"{role}-password"] for role in ("superuser", "owner", "kernel")}) == 3


def test_trusted_keys_are_written_only_when_the_values_have_some() -> None:
    assert "data" not in named(rendered("external"), "Secret", "shop-trust")
    assert decoded(named(rendered("trusted"), "Secret", "shop-trust")) == {"keys": f"{KEY}\n{KEY.upper()}\n"}
    assert decoded(named(rendered("trusting_nobody"), "Secret", "shop-trust")) == {"keys": "\n"}


def test_each_revision_has_a_migration_job_of_its_own(tmp_path: Path) -> None:
    names = [
        _job(upgraded(tmp_path, EXTERNAL, [], revision=revision))["metadata"]["name"] for revision in (2, 3, 12345)
    ]
    assert [name.split("-")[:3] for name in names] == [
        ["shop", "migrate", "2"],
        ["shop", "migrate", "3"],
        ["shop", "migrate", "12345"],
    ]


def test_without_revisions_the_job_is_named_by_what_it_runs() -> None:
    """Whoever renders charts without a release, as GitOps does, has revision 1 for ever; a Job cannot be changed."""
    name = _job(rendered("external"))["metadata"]["name"]
    assert _job(rendered("autoscaled"))["metadata"]["name"] == name
    assert _job(render({**EXTERNAL, "image": {"tag": "next"}}))["metadata"]["name"] != name
    assert _job(render({**EXTERNAL, "migrate": {"backoffLimit": 3}}))["metadata"]["name"] != name


def test_the_job_is_plain() -> None:
    """As a hook it would run before the chart's Secrets exist, or wait for kernels that wait for it."""
    for item in rendered("everything"):
        assert "helm.sh/hook" not in item["metadata"].get("annotations", {})
    assert environment(rendered("external"), "migrate").keys() == {"METACORE_OWNER_DATABASE_URL"}


def test_an_upgrade_that_changes_nothing_changes_no_pod(tmp_path: Path) -> None:
    before = render(DEVELOPMENT)
    after = upgraded(tmp_path, DEVELOPMENT, of_kind(before, "Secret"))
    assert [item for item in after if item["kind"] not in {"Job", "NetworkPolicy"}] == [
        item for item in before if item["kind"] not in {"Job", "NetworkPolicy"}
    ]
    assert {item["kind"] for item in after} >= WORKLOADS


def test_a_refusal_reaches_upgrades_too(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"set database\.existingSecret"):
        upgraded(tmp_path, {}, [])


def _job(objects: list[Object]) -> Object:
    (job,) = of_kind(objects, "Job")
    return job
