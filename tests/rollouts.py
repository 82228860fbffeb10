"""A Deployment and its pods in memory, as far as a change of the mode looks at them, for tests of the decision."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace

from metacore.capabilities.access import Mode
from metacore_operator.rollout.decide import Decision, Policy, decide
from metacore_operator.rollout.record import Record, mode_of, read_record, write_record
from metacore_operator.rollout.sight import PodSight, Sight
from metacore_operator.rollout.wish import Wish, read_wish

BEGAN = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)
FAILED = "kernel ended 3 times, at last with exit code 1"


def pod(name: str, stamp: str, *, ready: bool = True, observed: Mode | None = None, problem: str = "") -> PodSight:
    mode = mode_of(stamp)
    heard = observed or (mode if ready else None)
    return PodSight(name, mode, heard, ready=ready, ending=False, problem=problem)


@dataclass
class Rolled:
    """`replicas` pods of one template after another. The controller's work is done by `make` and `become_ready`."""

    replicas: int = 3
    stamp: str = ""
    policy: Policy = field(default_factory=Policy)
    entry: str | None = None
    asked: str = ""
    gone: bool = False
    violations: int | None = None
    now: datetime.datetime = BEGAN
    record: Record | None = None
    paused: bool = False
    seen: bool = True
    heard: bool = True
    template: int = 1
    exceeded_at: datetime.datetime | None = None
    pods: list[tuple[int, PodSight]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.make(self.replicas)
        self.become_ready()

    @property
    def wish(self) -> Wish:
        if self.gone:
            return read_wish(None, "shop-config")
        data = {} if self.entry is None else {"METACORE_ENFORCE": self.entry}
        annotations = {"metacore.dev/requested-at": self.asked} if self.asked else {}
        return read_wish({"metadata": {"annotations": annotations}, "data": data}, "shop-config")

    @property
    def sight(self) -> Sight:
        new = [item for template, item in self.pods if template == self.template]
        return Sight(
            stamp=self.stamp,
            paused=self.paused,
            seen=self.seen,
            desired=self.replicas,
            total=len(self.pods),
            updated=len(new),
            available=sum(item.ready for _, item in self.pods),
            deadline=600.0,
            exceeded_at=self.exceeded_at,
            pods=tuple(item for _, item in self.pods),
            heard=self.heard,
        )

    # What happens

    def make(self, count: int = 1) -> None:
        """New pods of the template, not ready yet. Old ones that fail go first, as the controller has it."""
        self.pods = [(template, item) for template, item in self.pods if template == self.template or not item.problem]
        for _ in range(count):
            name = f"{self.template}-{sum(template == self.template for template, _ in self.pods)}"
            self.pods.append((self.template, pod(name, self.stamp, ready=False)))

    def become_ready(self) -> None:
        """The pods of the template serve, and old ones beyond what is wanted are gone."""
        self.pods = [
            (template, pod(item.name, self.stamp)) if template == self.template else (template, item)
            for template, item in self.pods
        ]
        new = [entry for entry in self.pods if entry[0] == self.template]
        old = [entry for entry in self.pods if entry[0] != self.template]
        self.pods = old[: self.replicas - len(new)] + new

    def fail(self) -> None:
        self.pods = [
            (template, replace(item, ready=False, observed=None, problem=FAILED))
            if template == self.template
            else (template, item)
            for template, item in self.pods
        ]

    def upgrade(self) -> None:
        """Somebody else changes the template."""
        self.template += 1

    def later(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    # What the operator does

    def step(self) -> Decision:
        """Decide, and carry it out as the API server would, with a record that went through the annotation."""
        decision = decide(self.record, self.wish, self.sight, self.policy, self.violations, self.now)
        self.record = read_record(write_record(decision.record))
        assert self.record == decision.record
        if decision.record.stamp != self.stamp:
            self.stamp = decision.record.stamp
            self.template += 1
            self.exceeded_at = None
        self.paused = decision.paused
        return decision

    def finish(self) -> Decision:
        """One pod after another until nothing is left to do."""
        for _ in range(2 * self.replicas):
            if self.paused or self.sight.updated >= self.replicas:
                break
            self.make()
            self.become_ready()
            self.step()
        return self.step()
