"""What is true of a release's mode: a resource that only the operator writes. The wish stands in the ConfigMap."""

from __future__ import annotations

from pydantic import Field

from metacore_operator.resources.status import Condition
from metacore_operator.resources.strict import Strict

MODE_ROLLOUT_KIND = "ModeRollout"
MODE_ROLLOUT_PLURAL = "moderollouts"
MOST_PODS = 100
"""So many pods are listed; the object must stay small however many there are."""


class PodMode(Strict):
    name: str
    mode: str = Field(description="Mode that the pod was started with: shadow or enforce.")
    observed: str = Field(default="", description="Mode that its kernel says it is in; empty while it is not alive.")
    ready: bool = False
    problem: str = Field(default="", description="Why it cannot become ready.")


class ModeRolloutStatus(Strict):
    phase: str = Field(default="", description="Settled, Waiting, Canary, Rolling, Returning or Refused.")
    wish: str = Field(default="", description="METACORE_ENFORCE as it stands in the ConfigMap.")
    mode: str = Field(default="", description="Mode that new pods start with: shadow or enforce.")
    former: str = Field(default="", description="Mode before the last change.")
    pods: str = Field(default="", description="How many pods say that they are in which mode.")
    kernels: tuple[PodMode, ...] = Field(default=(), strict=False, description="The pods, at most a hundred.")
    conditions: tuple[Condition, ...] = Field(default=(), strict=False)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)
