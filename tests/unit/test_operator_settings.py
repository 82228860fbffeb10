"""Settings of the operator: each is documented, and lists come as the chart writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metacore.errors import Misconfigured
from metacore_operator.__main__ import read_operator_settings
from metacore_operator.metrics import OperatorMetric, OperatorMetrics
from metacore_operator.settings import OperatorSettings, Tenancy

PAGE = Path(__file__).parents[2] / "docs" / "operator.md"


def test_every_setting_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `(METACORE_OPERATOR_\w+)`", PAGE.read_text("utf-8"), re.MULTILINE))
    assert documented == {f"METACORE_OPERATOR_{name.upper()}" for name in OperatorSettings.model_fields}


def test_lists_and_rules_as_the_chart_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METACORE_OPERATOR_NAMESPACE", "metacore")
    monkeypatch.setenv("METACORE_OPERATOR_NAMESPACES", "metacore, team")
    monkeypatch.setenv("METACORE_OPERATOR_SOURCE_HOSTS", "")
    monkeypatch.setenv("METACORE_OPERATOR_CLUSTER_WIDE", "false")
    monkeypatch.setenv("METACORE_OPERATOR_TENANCY", '[{"namespaces":["team"],"organizations":["Acme"]}]')
    settings = read_operator_settings()
    assert settings.watched == ("metacore", "team")
    assert (settings.source_hosts, settings.cluster_wide) == ((), False)
    assert settings.rules == (Tenancy(namespaces=("team",), organizations=("Acme",)),)


def test_without_rules_only_the_releases_own_namespace_targets_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METACORE_OPERATOR_NAMESPACE", "metacore")
    settings = read_operator_settings()
    assert settings.watched == ("metacore",)
    assert settings.rules == (Tenancy(namespaces=("metacore",), organizations=("*",)),)


@pytest.mark.parametrize(
    ("name", "value"), [("TENANCY", "{"), ("TENANCY", '[{"namespaces":[]}]'), ("WORKERS", "many"), ("PORT", "-1")]
)
def test_what_cannot_be_understood_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"METACORE_OPERATOR_{name}", value)
    with pytest.raises(Misconfigured, match=f"METACORE_OPERATOR_{name}"):
        read_operator_settings()


@pytest.mark.parametrize("name", ["Acme*", "*-x", "**", ""])
def test_a_star_is_no_part_of_an_organizations_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rule = json.dumps([{"namespaces": ["team-*"], "organizations": ["Globex", name]}])
    monkeypatch.setenv("METACORE_OPERATOR_TENANCY", rule)
    with pytest.raises(Misconfigured, match=re.escape(f"{name!r} is no organization: write a name, an id, or * alone")):
        read_operator_settings()


@pytest.mark.parametrize("name", list(OperatorMetric))
def test_each_metric_is_documented(name: OperatorMetric) -> None:
    assert re.search(rf"^\| `{re.escape(name)}` \|", PAGE.read_text("utf-8"), re.MULTILINE), f"{name} lacks a row"


def test_each_documented_metric_exists_and_each_name_is_registered() -> None:
    documented = set(re.findall(r"^\| `(metacore_operator_\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in OperatorMetrics(process=False).registry.collect()
    }
    assert documented == registered == {str(name) for name in OperatorMetric}
