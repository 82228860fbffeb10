"""Looks at wish, Deployment and pods, does what was decided, and tells of it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import TypeVar

from metacore.errors import MetacoreError
from metacore.logs import get_logger
from metacore_operator.api_server import Document
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.resources.mode_rollout import ModeRolloutStatus
from metacore_operator.rollout.decide import Decision, Policy, decide
from metacore_operator.rollout.evidence import Evidence
from metacore_operator.rollout.objects import Objects
from metacore_operator.rollout.record import ANNOTATION, Record, read_record
from metacore_operator.rollout.sight import Sight, read_sight
from metacore_operator.rollout.status import events_of, status_of
from metacore_operator.rollout.wish import Wish, read_wish
from metacore_operator.rollout.words import Phase

log = get_logger(__name__)

T = TypeVar("T")

RESYNC_SECONDS = 15.0
"""How often pods and violations are looked at though neither ConfigMap nor Deployment changed."""
TURN_SECONDS = 40.0
"""A turn that takes longer hangs; it is given up and begun anew."""


class ModeRollouts:
    """Follows the one release whose operator this is, every `pulse` seconds while something is under way."""

    def __init__(
        self,
        objects: Objects,
        evidence: Evidence,
        policy: Policy,
        metrics: OperatorMetrics,
        *,
        window: float,
        pulse: float,
        on_turn: Callable[[], None] = lambda: None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._objects = objects
        self._evidence = evidence
        self._policy = policy
        self._metrics = metrics
        self._window = window
        self._pulse = pulse
        self._on_turn = on_turn
        self._now = now
        self._shown: ModeRolloutStatus | None = None
        self._seen: object = None
        self._looked_at: datetime.datetime | None = None
        self._troubles: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. A failure is told once until it ends, and the next turn tries again."""
        while not stop.is_set():
            await self._guarded("turn", self._bounded())
            self._on_turn()
            try:
                async with asyncio.timeout(self._pulse):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _bounded(self) -> None:
        async with asyncio.timeout(TURN_SECONDS):
            await self.turn()

    async def turn(self) -> Decision | None:
        """One look and at most one step; None where there was nothing to decide.

        Raises:
            MetacoreError: the API server could not be asked or told.
        """
        deployment = await self._objects.deployment()
        if deployment is None:
            self._once("deployment", f"there is no Deployment {self._objects.release.deployment}; no mode to roll out")
            self._seen = self._shown = None
            return None
        self._troubles.pop("deployment", None)
        config_map = await self._objects.config_map()
        if not self._due(deployment, config_map):
            return None
        wish = read_wish(config_map, self._objects.release.config_map)
        decision, sight = await self._decided(deployment, wish)
        if _changes(decision, self._record(deployment), sight):
            changed = await self._objects.stamp(deployment, decision.record, paused=decision.paused)
            if changed is None:
                return None
            deployment = changed
        await self._tell(decision, wish, sight, deployment, config_map)
        self._metrics.mode({phase.value: phase is decision.phase for phase in Phase}, sight.counts)
        busy = decision.phase not in (Phase.SETTLED, Phase.REFUSED)
        self._seen = None if busy else _versions(deployment, config_map)
        self._looked_at = self._now()
        return decision

    def _due(self, deployment: Document, config_map: Document | None) -> bool:
        if self._seen != _versions(deployment, config_map) or self._looked_at is None:
            return True
        return (self._now() - self._looked_at).total_seconds() >= RESYNC_SECONDS

    async def _decided(self, deployment: Document, wish: Wish) -> tuple[Decision, Sight]:
        pods = await self._objects.pods(deployment)
        heartbeats = await self._guarded("heartbeats", self._evidence.modes())
        violations: int | None = None
        if self._policy.most_violations is not None:
            violations = await self._guarded("violations", self._evidence.violations(self._window))
        now = self._now()
        sight = read_sight(deployment, pods, heartbeats, now)
        return decide(self._record(deployment), wish, sight, self._policy, violations, now), sight

    def _record(self, deployment: Document) -> Record | None:
        text = (deployment["metadata"].get("annotations") or {}).get(ANNOTATION)
        record = read_record(text) if text else None
        if text and record is None:
            self._once("record", f"the annotation {ANNOTATION} of the Deployment cannot be understood; it is made anew")
        return record

    async def _tell(
        self, decision: Decision, wish: Wish, sight: Sight, deployment: Document, config_map: Document | None
    ) -> None:
        """Show the status, then tell the Events of what changed. A status that cannot be shown, because its definition
        is not installed, say, or that somebody deleted, is tried again; the Events are told all the same, and once.
        """
        found = await self._objects.shown()
        shown = found or self._shown or ModeRolloutStatus()
        status = self._shown = status_of(decision, wish, sight, shown, self._now())
        if status == found:
            return
        await self._guarded("status", self._objects.show(deployment, status))
        for told in events_of(status, shown):
            self._metrics.mode_changed(status.phase)
            level = log.warning if told.type == "Warning" else log.info
            level("rollout.event", reason=told.reason, told=told.message)
            await self._guarded("events", self._objects.tell(deployment, config_map, told))

    async def _guarded(self, what: str, work: Awaitable[T]) -> T | None:
        """The answer of `work`, or None when it failed; each kind of failure is told once until it ends."""
        try:
            answer = await work
        except Exception as error:
            self._once(what, error.message if isinstance(error, MetacoreError) else type(error).__name__)
            return None
        self._troubles.pop(what, None)
        return answer

    def _once(self, what: str, words: str) -> None:
        if self._troubles.get(what) != words:
            self._troubles[what] = words
            log.warning("rollout.trouble", what=what, error=words)


def _changes(decision: Decision, before: Record | None, sight: Sight) -> bool:
    record = decision.record
    if before is None and not record.under_way and record.refusal is None:
        return False
    return record != before or record.stamp != sight.stamp or (decision.paused and not sight.paused)


def _versions(deployment: Document, config_map: Document | None) -> object:
    version = config_map["metadata"]["resourceVersion"] if config_map is not None else None
    return deployment["metadata"]["resourceVersion"], version
