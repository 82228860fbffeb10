"""Who runs next when addons share a few threads. Pure: no threads, no clock.

Three rules keep an addon whose calls never end from starving the others:
- the addon with the fewest running calls goes first, among equals the one that waited longest for its turn;
- an addon that runs already never takes the last free slot;
- addons whose calls have been slow lately hold at most half of the slots, all of them together.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

SLOW_SECONDS: Final = 0.1
"""Calls longer than this on average make an addon a slow one."""
_WEIGHT: Final = 0.25
"""Of the newest call in the moving average."""
_LONGEST_SAMPLE: Final = 1.0
"""Seconds; a single call that ran into a long timeout is forgiven after a few quick ones."""

Job = TypeVar("Job", bound=Hashable)


@dataclass(slots=True)
class _Addon(Generic[Job]):
    waiting: deque[Job] = field(default_factory=deque)
    started: list[float] = field(default_factory=list)
    average: float = 0.0

    def slow(self, now: float) -> bool:
        return self.average > SLOW_SECONDS or any(now - began > SLOW_SECONDS for began in self.started)


class FairQueue(Generic[Job]):
    """Times are seconds of any one clock. Not safe for threads: the pool holds its lock."""

    def __init__(self, slots: int, *, per_addon: int, total: int) -> None:
        """`slots` calls run at once; at most `per_addon` of one and `total` of all wait."""
        self._slots = slots
        self._per_addon = per_addon
        self._total = total
        self._addons: OrderedDict[str, _Addon[Job]] = OrderedDict()
        self._waiting = 0
        self._running = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, addon_key: str, job: Job) -> bool:
        """False when too many wait already."""
        addon = self._addons.setdefault(addon_key, _Addon())
        if self._waiting >= self._total or len(addon.waiting) >= self._per_addon:
            return False
        addon.waiting.append(job)
        self._waiting += 1
        return True

    def withdraw(self, addon_key: str, job: Job) -> bool:
        """Whether the job was still waiting; then it will not be taken any more."""
        addon = self._addons.get(addon_key)
        if addon is None or job not in addon.waiting:
            return False
        addon.waiting.remove(job)
        self._waiting -= 1
        return True

    def drain(self) -> list[Job]:
        """Everything that waits; none of it will be taken any more."""
        jobs = [job for addon in self._addons.values() for job in addon.waiting]
        for addon in self._addons.values():
            addon.waiting.clear()
        self._waiting = 0
        return jobs

    def take(self, now: float) -> Job | None:
        """The job to run next, which is counted as running from `now`; None when none may run."""
        free = self._slots - self._running
        if not self._waiting or free <= 0:
            return None
        slow_running = sum(len(addon.started) for addon in self._addons.values() if addon.slow(now))
        chosen: str | None = None
        fewest = self._slots
        for key, addon in self._addons.items():
            running = len(addon.started)
            if not addon.waiting or running >= fewest:
                continue
            if running and free < 2:
                continue
            if addon.slow(now) and slow_running >= max(1, self._slots // 2):
                continue
            chosen, fewest = key, running
        if chosen is None:
            return None
        addon = self._addons[chosen]
        self._addons.move_to_end(chosen)
        self._waiting -= 1
        self._running += 1
        addon.started.append(now)
        return addon.waiting.popleft()

    def done(self, addon_key: str, began: float, now: float) -> None:
        """A job that `take` gave at `began` has ended."""
        addon = self._addons[addon_key]
        addon.started.remove(began)
        addon.average += _WEIGHT * (min(now - began, _LONGEST_SAMPLE) - addon.average)
        self._running -= 1
