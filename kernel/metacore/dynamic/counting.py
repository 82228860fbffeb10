"""Counting operations on rows by model, operation and outcome, at the cost of a dictionary look-up each."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from metacore.errors import MetacoreError
from metacore.metrics import Metrics

OK, REFUSED, FAILED = "ok", "refused", "failed"
"""Outcomes: done; a rule, a value or a missing row said no; something of ours broke."""


class OperationCounter:
    """Hands out one context manager per operation. Without metrics it counts nothing."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics
        self._children: dict[tuple[str, str, str], Any] = {}

    def of(self, model: str, operation: str) -> Counted:
        """Count the block that this guards as one `operation` on `model` (its key, never what a URL said)."""
        return Counted(self, model, operation)

    def count(self, model: str, operation: str, outcome: str) -> None:
        if self._metrics is None:
            return
        labels = (model, operation, outcome)
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metrics.crud_operations.labels(*labels)
        child.inc()


class Counted:
    __slots__ = ("_counter", "_model", "_operation")

    def __init__(self, counter: OperationCounter, model: str, operation: str) -> None:
        self._counter = counter
        self._model = model
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._counter.count(self._model, self._operation, OK)
        elif issubclass(kind, Exception):
            # A caller that went away (CancelledError) is no outcome of the operation.
            refused = issubclass(kind, MetacoreError)
            self._counter.count(self._model, self._operation, REFUSED if refused else FAILED)
