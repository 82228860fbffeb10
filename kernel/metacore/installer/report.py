"""What an installation tells of itself."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from metacore.installer.plan import Plan
from metacore.installer.steps import StepKind

JOINED, CONFIGURED, RECORDED = "installation of ", "settings of ", "record of "
"""How what `InstallReport.did` names begins where it is about rows of the kernel's own tables."""


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What an installation did. `secrets` are in hex, by organization, of new installations only: nobody gets them
    again. `changed` is false when the database held all of it before; then `revision` is the one that stands. `did`
    names what was missing or different: steps of the plan, installations, settings, the addon's record."""

    addon_key: str
    version: str
    digest: str
    signer: str
    revision: int
    changed: bool
    did: tuple[str, ...] = ()
    secrets: Mapping[uuid.UUID, str] = field(default_factory=dict)


def named(plan: Plan, changes: Collection[uuid.UUID], *, differs: bool) -> tuple[str, ...]:
    """What a plan does beyond its frame, for people."""
    steps = [step.name for step in plan.steps if step.kind not in (StepKind.CLAIM, StepKind.INSTALL)]
    joined = [f"{JOINED}{organization}" for organization in plan.organizations]
    configured = [f"{CONFIGURED}{item}" for item in changes if item not in plan.organizations]
    recorded = [f"{RECORDED}{plan.addon_key} (mode, grants, signer or owner)"] if differs else []
    return (*steps, *joined, *configured, *recorded)
