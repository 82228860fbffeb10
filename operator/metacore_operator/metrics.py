"""Every metric of the operator, in one place; `docs/operator.md` lists them and a test holds the two together."""

from __future__ import annotations

from collections.abc import Mapping
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
RECONCILE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


class OperatorMetric(StrEnum):
    """Names as they are scraped."""

    LEADER = "metacore_operator_leader"
    RECONCILES = "metacore_operator_reconciles_total"
    RECONCILE_DURATION = "metacore_operator_reconcile_duration_seconds"
    QUEUE_DEPTH = "metacore_operator_queue_depth"
    ADDONS = "metacore_operator_addons"
    NAMESPACE_REFUSED = "metacore_operator_namespace_refused"
    MODE_PHASE = "metacore_operator_mode_phase"
    MODE_PODS = "metacore_operator_mode_pods"
    MODE_CHANGES = "metacore_operator_mode_changes_total"


class OperatorMetrics:
    """The metrics of one operator. `render` is the body of `GET /metrics`.

    One that waits for the Lease reports nothing but that, so sums over all pods speak of the one that works.
    """

    def __init__(self, *, process: bool = True) -> None:
        """`process` adds memory, CPU and file descriptors of the process."""
        self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._leader = self._gauge(OperatorMetric.LEADER, "1 while this operator holds the Lease, else 0")
        self._leader.set(0)
        self._reconciles = Counter(
            OperatorMetric.RECONCILES, "Reconciles of Addons by their outcome", ("outcome",), registry=self.registry
        )
        self._duration = Histogram(
            OperatorMetric.RECONCILE_DURATION,
            "Time that one reconcile of an Addon took, in seconds",
            buckets=RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self._queue = self._gauge(OperatorMetric.QUEUE_DEPTH, "Addons that are due and wait for a worker")
        self._addons = self._gauge(OperatorMetric.ADDONS, "Addons by their phase", "phase")
        self._refused = self._gauge(
            OperatorMetric.NAMESPACE_REFUSED, "1 for a namespace whose Addons may not be read, * for all", "watched"
        )
        self._mode_phase = self._gauge(OperatorMetric.MODE_PHASE, "1 for the phase that the mode is in", "phase")
        self._mode_pods = self._gauge(
            OperatorMetric.MODE_PODS, "Kernel pods by the mode that they say they are in", "mode"
        )
        self._mode_changes = Counter(
            OperatorMetric.MODE_CHANGES,
            "Changes of the mode, by its phase",
            ("phase",),
            registry=self.registry,
        )

    def leads(self) -> None:
        self._leader.set(1)

    def reconciled(self, outcome: str, seconds: float) -> None:
        """`outcome`: done, waiting, stalled or failed."""
        self._reconciles.labels(outcome).inc()
        self._duration.observe(seconds)

    def waiting(self, depth: int) -> None:
        self._queue.set(depth)

    def addons(self, by_phase: Mapping[str, int]) -> None:
        """Every phase that there is, those without an Addon as well."""
        for phase, count in by_phase.items():
            self._addons.labels(phase).set(count)

    def refused(self, watched: str, refused: bool) -> None:
        """`watched`: a namespace, or `*` where it is all of the cluster."""
        self._refused.labels(watched).set(refused)

    def mode(self, phases: Mapping[str, bool], pods: Mapping[str, int]) -> None:
        """Every phase and every mode that there is."""
        for phase, current in phases.items():
            self._mode_phase.labels(phase).set(current)
        for mode, count in pods.items():
            self._mode_pods.labels(mode).set(count)

    def mode_changed(self, phase: str) -> None:
        self._mode_changes.labels(phase).inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: OperatorMetric, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
