"""Who hears of a violation: the counter, the log, and whoever asked to be called. Never a database, never waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.enforcer import Violation
from metacore.capabilities.tally import NO_ORGANIZATION, Tally, ViolationKey, key_of
from metacore.logs import get_logger
from metacore.metrics import Metrics

log = get_logger("metacore.enforcer")

VIOLATION_EVENT: Final = "metacore.capability.violation"
"""The name under which a violation is told (contract 11)."""
REPEAT_SECONDS: Final = 60.0
"""The same violation is a line of the log at most so often; the next line tells how often it happened meanwhile."""
LINES_PER_SECOND: Final = 20.0
BURST_LINES: Final = 100.0
MOST_REPEATS: Final = 5_000
"""Violations whose last line is remembered."""
KINDS: Final = frozenset(kind.value for kind in CapabilityKind)

Hook = Callable[[Violation], None]


@dataclass(slots=True)
class _Said:
    at: float
    since: int = 0


class ViolationRecorder:
    """`enforcer.Recorder`: counts every violation, calls every hook with every one, logs as much as a log can bear and
    hands the rest on as numbers in `tally`."""

    def __init__(self, metrics: Metrics | None = None, tally: Tally | None = None) -> None:
        self.tally = tally if tally is not None else Tally()
        self._metrics = metrics
        self._hooks: list[Hook] = []
        self._said: dict[ViolationKey, _Said] = {}
        self._lines = BURST_LINES
        self._refilled_at = 0.0
        self._unsaid = 0

    def on_violation(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with every violation, before the operation goes on: it must be quick. Returns what ends it."""
        self._hooks.append(hook)

        def end() -> None:
            if hook in self._hooks:
                self._hooks.remove(hook)

        return end

    def record(self, violation: Violation) -> None:
        key = key_of(violation)
        if self._metrics is not None:
            kind = key.kind if key.kind in KINDS else "unknown"
            self._metrics.capability_violations.labels(key.addon_key, kind, key.mode).inc()
        if not self.tally.add(key, violation.at):
            self.dropped(1)
        for hook in tuple(self._hooks):
            try:
                hook(violation)
            except Exception:
                log.exception("enforcer.hook_failed", addon=key.addon_key)
        self._tell(key, violation)

    def dropped(self, violations: int) -> None:
        """Count violations that are in the counter and perhaps in the log, and will not be in the table."""
        if self._metrics is not None and violations:
            self._metrics.capability_violations_dropped.inc(violations)

    def _tell(self, key: ViolationKey, violation: Violation) -> None:
        said = self._said.get(key)
        if said is not None and violation.at - said.at < REPEAT_SECONDS:
            said.since += 1
            return
        if not self._may_write(violation.at):
            self._unsaid += 1
            return
        fields: dict[str, object] = {}
        if said is not None and said.since:
            fields["repeated"] = said.since
        if self._unsaid:
            fields["unsaid"], self._unsaid = self._unsaid, 0
        if key.forbidden:
            fields["forbidden"] = violation.reason or True
        log.warning(
            VIOLATION_EVENT,
            category="enforcer",
            mode=key.mode,
            addon=key.addon_key,
            kind=key.kind,
            target=key.target,
            organization="" if key.organization_id == NO_ORGANIZATION else str(key.organization_id),
            caller=key.caller,
            **fields,
        )
        if len(self._said) >= MOST_REPEATS:
            self._said.clear()
        self._said[key] = _Said(violation.at)

    def _may_write(self, at: float) -> bool:
        """A bucket of lines: an addon that invents targets must not fill the log either."""
        passed = max(0.0, at - self._refilled_at)
        self._refilled_at = at
        self._lines = min(BURST_LINES, self._lines + passed * LINES_PER_SECOND)
        if self._lines < 1.0:
            return False
        self._lines -= 1.0
        return True
