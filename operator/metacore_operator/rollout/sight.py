"""The kernel's Deployment and its pods, as the API server and the heartbeats show them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metacore.capabilities.access import Mode
from metacore_operator.rollout.record import MODE, mode_of

CRASHING = "CrashLoopBackOff"
MOST_RESTARTS = 2
"""So many restarts of one container in a rollout may be bad luck; the next one counts as a crash loop."""
BLOCKED = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that the kubelet gives while it cannot start it."""
BLOCKED_SECONDS = 30.0
"""A pod younger than that may still be started: a registry that hiccups is asked again."""
LONGEST_WORDS = 200
"""Characters of what a pod says of its end."""
DEFAULT_DEADLINE_SECONDS = 600.0
"""spec.progressDeadlineSeconds when the Deployment names none."""


@dataclass(frozen=True, slots=True)
class PodSight:
    """`mode` is what the pod was started with, `observed` what its kernel says in its heartbeat, if it is alive.
    `problem` says why it cannot become ready, and is empty while it still may.
    """

    name: str
    mode: Mode
    observed: Mode | None
    ready: bool
    ending: bool
    problem: str


@dataclass(frozen=True, slots=True)
class Sight:
    """`stamp` is what the template carries; `total`, `updated` and `available` count pods; `desired` are wanted.

    `seen` says that the Deployment's controller has looked at this template, `exceeded_at` when it gave up hope for it,
    and `heard` that the heartbeats could be read.
    """

    stamp: str
    paused: bool
    seen: bool
    desired: int
    total: int
    updated: int
    available: int
    deadline: float
    exceeded_at: datetime.datetime | None
    pods: tuple[PodSight, ...]
    heard: bool

    @property
    def mode(self) -> Mode:
        """What new pods start with."""
        return mode_of(self.stamp)

    @property
    def rolled(self) -> bool:
        """Every pod comes from the template and has been ready for long enough."""
        return self.seen and self.updated == self.total == self.desired and self.available >= self.desired

    def complete(self, mode: Mode) -> bool:
        """Every pod was started in `mode`, says so itself, and none of another is left."""
        return (
            self.mode is mode
            and self.rolled
            and all(pod.observed is mode for pod in self.pods if pod.ready and not pod.ending)
            and all(pod.observed in (None, mode) for pod in self.pods)
        )

    def started(self, mode: Mode) -> tuple[PodSight, ...]:
        return tuple(pod for pod in self.pods if pod.mode is mode and not pod.ending)

    def serving(self, mode: Mode) -> tuple[PodSight, ...]:
        return tuple(pod for pod in self.pods if pod.ready and pod.observed is mode and not pod.ending)

    def failing(self, mode: Mode) -> tuple[PodSight, ...]:
        return tuple(pod for pod in self.pods if pod.mode is mode and pod.problem and not pod.ending)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many pods say that they are in which mode; `starting` are those that say nothing yet."""
        counts = {mode.value: sum(pod.observed is mode for pod in self.pods) for mode in (Mode.ENFORCE, Mode.SHADOW)}
        return {**counts, "starting": sum(pod.observed is None and not pod.ending for pod in self.pods)}

    @property
    def words(self) -> str:
        """The counts for people: `2 enforce, 1 shadow, 1 starting`."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "none"


def read_sight(
    deployment: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    heartbeats: Mapping[str, str] | None,
    now: datetime.datetime,
) -> Sight:
    """`heartbeats` are the modes of live kernels by pod; None: nobody knows."""
    spec, status = deployment["spec"], deployment.get("status") or {}
    template = spec["template"].get("metadata") or {}
    return Sight(
        stamp=_stamp(template),
        paused=bool(spec.get("paused")),
        seen=int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0),
        desired=int(spec.get("replicas", 1)),
        total=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        deadline=float(spec.get("progressDeadlineSeconds") or DEFAULT_DEADLINE_SECONDS),
        exceeded_at=_exceeded_at(status.get("conditions") or ()),
        pods=tuple(sorted((_pod(pod, heartbeats or {}, now) for pod in pods), key=lambda pod: pod.name)),
        heard=heartbeats is not None,
    )


def _stamp(metadata: Mapping[str, Any]) -> str:
    return str((metadata.get("annotations") or {}).get(MODE, ""))


def _exceeded_at(conditions: Sequence[Mapping[str, Any]]) -> datetime.datetime | None:
    for condition in conditions:
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return _moment(condition.get("lastUpdateTime") or condition["lastTransitionTime"])
    return None


def _pod(pod: Mapping[str, Any], heartbeats: Mapping[str, str], now: datetime.datetime) -> PodSight:
    metadata, status = pod["metadata"], pod.get("status") or {}
    said = heartbeats.get(metadata["name"])
    return PodSight(
        name=metadata["name"],
        mode=mode_of(_stamp(metadata)),
        observed=Mode(said) if said in set(Mode) else None,
        ready=any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ()),
        ending=bool(metadata.get("deletionTimestamp")),
        problem=next(_problems(status, (now - _moment(metadata["creationTimestamp"])).total_seconds()), ""),
    )


def _problems(status: Mapping[str, Any], age: float) -> Iterator[str]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = str(waiting.get("reason") or "")
            restarts = int(container.get("restartCount") or 0)
            if reason in BLOCKED and age >= BLOCKED_SECONDS:
                yield f"{reason}: {str(waiting.get('message') or 'the kubelet says no more')[:LONGEST_WORDS]}"
            elif restarts > MOST_RESTARTS or (reason == CRASHING and restarts >= MOST_RESTARTS):
                ended = (container.get("lastState") or {}).get("terminated") or {}
                how = f", at last with exit code {ended['exitCode']}" if "exitCode" in ended else ""
                # Its last line of log, where the container says that the kubelet shall keep it.
                words = str(ended.get("message") or "").strip().rpartition("\n")[2][:LONGEST_WORDS]
                yield f"{container['name']} ended {restarts} times{how}" + (f": {words}" if words else "")


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
