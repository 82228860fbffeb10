"""Each metric is named once, documented, and its own per App."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metacore.metrics import MetricName, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


@pytest.mark.parametrize("name", list(MetricName))
def test_each_metric_is_documented(name: MetricName) -> None:
    assert re.search(rf"^\| `{re.escape(name)}` \|", PAGE.read_text("utf-8"), re.MULTILINE), f"{name} lacks a row"


def test_each_documented_metric_exists() -> None:
    documented = set(re.findall(r"^\| `(metacore_\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert documented == {str(name) for name in MetricName}


def test_each_name_is_registered_and_nothing_else() -> None:
    registered = set()
    for family in Metrics(process=False).registry.collect():
        registered.add(f"{family.name}_total" if family.type == "counter" else family.name)
    assert registered == {str(name) for name in MetricName}


def test_two_apps_in_one_process_count_apart() -> None:
    first, second = Metrics(process=False), Metrics(process=False)
    first.ws_connections.inc()
    assert b"metacore_ws_connections 1.0" in first.render()
    assert b"metacore_ws_connections 0.0" in second.render()


def test_a_request_is_counted_under_route_method_and_status() -> None:
    metrics = Metrics(process=False)
    metrics.observe_http("/api/dynamic/{model}", "GET", 200, 0.004)
    metrics.observe_http("/api/dynamic/{model}", "GET", 200, 0.004)
    text = metrics.render().decode()
    labels = 'method="GET",route="/api/dynamic/{model}",status="200"'
    assert f"metacore_http_request_duration_seconds_count{{{labels}}} 2.0" in text


def test_lag_is_never_negative_when_clocks_differ() -> None:
    metrics = Metrics(process=False)
    metrics.observe_lag(4_000_000_000.0)
    assert b"metacore_relay_lag_seconds_sum 0.0" in metrics.render()
