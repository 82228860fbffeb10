"""Alerts and dashboard speak of metrics that exist, and each alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart import generate
from tests.chart.rendering import container, named, of_kind, pod, render, rendered
from tests.chart.value_sets import EXTERNAL
from tests.cluster.build import build

from metacore.metrics import MetricName, Metrics
from metacore_operator.metrics import OperatorMetric, OperatorMetrics

SCENARIOS = Path(__file__).parent / "alerts_test.yaml"
PROCESS_METRICS = frozenset({"process_cpu_seconds_total", "process_resident_memory_bytes"})
NAMES = frozenset(map(str, [*MetricName, *OperatorMetric]))
HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


def rules() -> list[dict[str, Any]]:
    (group,) = named(rendered("monitored"), "PrometheusRule", "shop")["spec"]["groups"]
    assert group["name"] == "backstage.shop"
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    data = named(rendered("monitored"), "ConfigMap", "shop-dashboard")["data"]
    return dict(json.loads(data["metacore.json"]))


def expressions_of_the_dashboard() -> list[str]:
    board = dashboard()
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return targets + [str(item["query"]) for item in board["templating"]["list"]]


@pytest.mark.parametrize("alert", [item["alert"] for item in yaml.safe_load(generate.ALERTS.read_text())["alerts"]])
def test_an_alert_names_metrics_that_exist_and_this_release_only(alert: str) -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == alert]
    assert metrics_in(rule["expr"])
    assert unknown_in(rule["expr"]) == set()
    for name, labels in re.findall(r"(metacore_\w+)(\{.*?\})?(?=[^\w{]|$)", rule["expr"]):
        job = "shop-operator" if _family(name) in set(OperatorMetric) else "shop"
        assert re.match(rf'\{{namespace="backstage",job="{job}"[,}}]', labels)
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_dashboard_names_metrics_that_exist_and_shows_each() -> None:
    expressions = expressions_of_the_dashboard()
    assert {name for text in expressions for name in unknown_in(text)} == set()
    assert {name for text in expressions for name in metrics_in(text)} >= NAMES


def test_labels_in_expressions_are_labels_of_the_metrics() -> None:
    """Those of the program, and those that a scrape adds."""
    known = {"namespace", "job", "pod", "le"}
    for family in [*Metrics(process=False).registry.collect(), *OperatorMetrics(process=False).registry.collect()]:
        known |= {label for sample in family.samples for label in sample.labels}
    known |= {"route", "method", "status", "model", "operation", "outcome", "addon", "phase", "mode", "kind", "trigger"}
    known |= {"watched"}
    texts = [rule["expr"] for rule in rules()] + expressions_of_the_dashboard()
    for text in texts:
        for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text):
            assert {label.strip() for label in group.split(",")} <= known
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", text)) <= known


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_has_a_scenario_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(SCENARIOS.read_text())["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = str(build({"prometheus"}) / "promtool")
    kept = [{**rule, "annotations": {"summary": rule["annotations"]["summary"]}} for rule in rules()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "shop", "rules": kept}]}))
    (tmp_path / "alerts_test.yaml").write_text(SCENARIOS.read_text())
    for arguments in (["check", "rules", "--lint-fatal", "rules.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_can_be_left_out_and_labelled() -> None:
    values = {
        **EXTERNAL,
        "metrics": {"rules": {"enabled": True, "disabled": ["MetacoreSlow"], "alertLabels": {"severity": "page"}}},
    }
    (group,) = named(render(values), "PrometheusRule", "shop")["spec"]["groups"]
    assert len(group["rules"]) == len(rules()) - 1
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"page"}


@pytest.mark.parametrize("name", ["shop", "shop-operator"])
def test_the_scrape_finds_the_service_and_reaches_its_pods(name: str) -> None:
    objects = rendered("monitored")
    monitor = named(objects, "ServiceMonitor", name)
    service = named(objects, "Service", name)
    others = [item for item in of_kind(objects, "Service") if item is not service]
    assert not [
        item
        for item in others
        if monitor["spec"]["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
    ]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "15s")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    component = "operator" if name == "shop-operator" else "kernel"
    (port,) = service["spec"]["ports"]
    (policy,) = [
        item
        for item in of_kind(objects, "NetworkPolicy")
        if item["spec"]["podSelector"].get("matchLabels") == service["spec"]["selector"]
    ]
    assert service["spec"]["selector"].items() <= pod(objects, component)["metadata"]["labels"].items()
    assert port["targetPort"] in {item["name"] for item in container(objects, component)["ports"]}
    allowed = [entry["port"] for rule in policy["spec"]["ingress"] for entry in rule["ports"]]
    assert port["targetPort"] in allowed


def test_nothing_of_monitoring_is_there_unless_asked_for() -> None:
    assert not of_kind(rendered("external"), "ServiceMonitor", "PrometheusRule")
    assert len(of_kind(rendered("external"), "ConfigMap")) == 1
    assert [item["metadata"]["name"] for item in of_kind(rendered("external"), "Service")] == ["shop"]


def metrics_in(text: str) -> set[str]:
    """Names of metrics, without the suffixes that a histogram's series have."""
    found = set(re.findall(r"\b(?:metacore|process)_\w+", text))
    return {_family(name) for name in found}


def unknown_in(text: str) -> set[str]:
    return metrics_in(text) - NAMES - PROCESS_METRICS


def _family(name: str) -> str:
    for part in HISTOGRAM_PARTS:
        if name.removesuffix(part) in NAMES:
            return name.removesuffix(part)
    return name
