"""Every metric of a kernel process, in one place; `docs/observability.md` lists them and a test holds the two together.

Each `Metrics` has a registry of its own, so that several Apps live in one process without clashing.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
HTTP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
JOB_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class MetricName(StrEnum):
    """Names as they are scraped."""

    HTTP_REQUEST_DURATION = "metacore_http_request_duration_seconds"
    CRUD_OPERATIONS = "metacore_crud_operations_total"
    REGISTRY_REVISION = "metacore_registry_revision"
    ADDONS_LOADED = "metacore_addons_loaded"
    ADDONS_QUARANTINED = "metacore_addons_quarantined"
    HEARTBEAT_HEALTHY = "metacore_heartbeat_healthy"
    BUS_FAILURES = "metacore_bus_handler_failures_total"
    BUS_DROPPED = "metacore_bus_dropped_total"
    RELAY_EVENTS = "metacore_relay_events_total"
    RELAY_LAG = "metacore_relay_lag_seconds"
    RELAY_LEADER = "metacore_relay_leader"
    CAPABILITY_VIOLATIONS = "metacore_capability_violations_total"
    CAPABILITY_VIOLATIONS_DROPPED = "metacore_capability_violations_dropped_total"
    EGRESS_DURATION = "metacore_egress_duration_seconds"
    ADDON_INVOCATIONS = "metacore_addon_invocations_total"
    ADDON_INVOCATION_DURATION = "metacore_addon_invocation_duration_seconds"
    JOBS = "metacore_jobs_total"
    JOBS_RUNNING = "metacore_jobs_running"
    JOB_DURATION = "metacore_job_duration_seconds"
    WS_CONNECTIONS = "metacore_ws_connections"
    WS_MESSAGES = "metacore_ws_messages_total"
    WS_SLOW_CLIENTS = "metacore_ws_slow_clients_total"


class Metrics:
    """The metrics of one App. `render` is the body of `GET /metrics`."""

    def __init__(self, *, process: bool = True) -> None:
        """`process` adds memory, CPU and file descriptors of the process; switch it off in all but one App."""
        self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self.http_request_duration = Histogram(
            MetricName.HTTP_REQUEST_DURATION,
            "Time from a request's arrival to the end of its reply, in seconds",
            ("route", "method", "status"),
            buckets=HTTP_BUCKETS,
            registry=self.registry,
        )
        self.crud_operations = Counter(
            MetricName.CRUD_OPERATIONS,
            "Operations on rows of live models",
            ("model", "operation", "outcome"),
            registry=self.registry,
        )
        self.registry_revision = self._gauge(MetricName.REGISTRY_REVISION, "Registry revision that this process serves")
        self.addons_loaded = self._gauge(MetricName.ADDONS_LOADED, "Addons that this process serves")
        self.addons_quarantined = self._gauge(MetricName.ADDONS_QUARANTINED, "Addons that this process could not load")
        self.heartbeat_healthy = self._gauge(
            MetricName.HEARTBEAT_HEALTHY, "1 while the heartbeat row can be written, else 0"
        )
        self.bus_failures = self._counter(MetricName.BUS_FAILURES, "Events whose handler failed", "addon")
        self.bus_dropped = self._counter(MetricName.BUS_DROPPED, "Events that a full queue did not take", "addon")
        self.relay_events = self._counter(MetricName.RELAY_EVENTS, "Committed events published to the bus")
        self.relay_lag = Histogram(
            MetricName.RELAY_LAG,
            "Time from the start of a change's transaction to its event on the bus, in seconds",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        self.relay_leader = self._gauge(MetricName.RELAY_LEADER, "1 in the one process that numbers events, else 0")
        self.capability_violations = self._counter(
            MetricName.CAPABILITY_VIOLATIONS, "Operations of addons that were not granted", "addon", "kind", "mode"
        )
        self.capability_violations_dropped = self._counter(
            MetricName.CAPABILITY_VIOLATIONS_DROPPED, "Violations that are counted here and not in the table"
        )
        self.egress_duration = Histogram(
            MetricName.EGRESS_DURATION,
            "Time from a request to another host to the end of its answer, in seconds",
            ("outcome",),
            buckets=HTTP_BUCKETS,
            registry=self.registry,
        )
        self.addon_invocations = self._counter(
            MetricName.ADDON_INVOCATIONS, "Runs of addon code", "addon", "trigger", "kind", "outcome"
        )
        self.addon_invocation_duration = Histogram(
            MetricName.ADDON_INVOCATION_DURATION,
            "Time of one run of addon code, waiting for a thread included, in seconds",
            ("trigger", "kind"),
            buckets=HTTP_BUCKETS,
            registry=self.registry,
        )
        self.jobs = self._counter(MetricName.JOBS, "Tries of jobs that ended", "addon", "kind", "outcome")
        self.jobs_running = self._gauge(MetricName.JOBS_RUNNING, "Jobs that this process runs right now")
        self.job_duration = Histogram(
            MetricName.JOB_DURATION,
            "Time of one try of a job, in seconds",
            ("kind",),
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )
        self.ws_connections = self._gauge(MetricName.WS_CONNECTIONS, "Open WebSocket connections")
        self.ws_messages = self._counter(MetricName.WS_MESSAGES, "Messages handed to WebSocket connections")
        self.ws_slow_clients = self._counter(
            MetricName.WS_SLOW_CLIENTS, "WebSocket clients closed with 1013 because they did not read"
        )
        self._http: dict[tuple[str, str, int], Histogram] = {}

    def observe_http(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. `route` is a template, never a path: every distinct value is kept for good."""
        key = (route, method, status)
        child = self._http.get(key)
        if child is None:
            child = self._http[key] = self.http_request_duration.labels(route, method, str(status))
        child.observe(seconds)

    def observe_lag(self, committed_at: float) -> None:
        """Count one event that reached the bus now. `committed_at` in Unix seconds; clocks differ, so never below 0."""
        self.relay_lag.observe(max(0.0, time.time() - committed_at))

    def observe_egress(self, outcome: str, seconds: float) -> None:
        """Count one request that left, or was kept from leaving. `outcome` is one of docs/observability.md's words."""
        self.egress_duration.labels(outcome).observe(seconds)

    def render(self) -> bytes:
        """The text exposition format. It takes milliseconds: call it from a thread."""
        return generate_latest(self.registry)

    def _gauge(self, name: MetricName, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _counter(self, name: MetricName, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
