"""What is true of an Addon, as its status tells it."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from metacore_operator.resources.strict import Strict


class Phase(StrEnum):
    """One word for people; programs read the conditions."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    WAITING = "Waiting"
    READY = "Ready"
    STALLED = "Stalled"
    SUSPENDED = "Suspended"
    DELETING = "Deleting"


class Condition(Strict):
    """A condition as in metav1.Condition; types and reasons are listed in docs/addons.md."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: Annotated[datetime.datetime, Field(strict=False)]


class OrganizationCounts(Strict):
    desired: int = Field(default=0, description="Organizations that the spec means.")
    installed: int = Field(default=0, description="Organizations that have the addon.")


class KernelCounts(Strict):
    live: int = Field(default=0, description="Kernels seen in the last ten seconds.")
    acknowledged: int = Field(default=0, description="Those of them that loaded the installed digest without error.")


class ViolationCounts(Strict):
    day: int = Field(default=0, description="Capability violations of the last 24 hours.")
    total: int = Field(default=0, description="Capability violations of the last 30 days.")


class HistoryEntry(Strict):
    version: str
    digest: str
    signer: str = ""
    installed_at: Annotated[datetime.datetime, Field(strict=False)]


class AddonStatus(Strict):
    observed_generation: int = Field(default=0, description="Generation of the spec that this status speaks of.")
    phase: Phase = Field(default=Phase.PENDING, strict=False, description="One word for people.")
    key: str = Field(default="", description="Addon key.")
    version: str = Field(default="", description="Installed version.")
    digest: str = Field(default="", description="SHA-256 in hex of the installed bundle.")
    signer: str = Field(default="", description="Who signed it.")
    schema_revision: int = Field(default=0, description="How often the addon's tables were changed.")
    observed_mode: str = Field(default="", description="How live kernels hold it: shadow, enforce or mixed.")
    organizations: OrganizationCounts = OrganizationCounts()
    kernels: KernelCounts = KernelCounts()
    violations: ViolationCounts = ViolationCounts()
    history: tuple[HistoryEntry, ...] = Field(default=(), strict=False, description="Installed bundles, newest first.")
    disabled_by_spec: bool = Field(default=False, description="The spec switched it off, and has not switched it on.")
    last_handled_requested_at: str = Field(default="", description="Value of metacore.dev/requested-at last acted on.")
    last_handled_force: str = Field(default="", description="Value of metacore.dev/force last acted on.")
    last_handled_rotate_secrets: str = Field(
        default="", description="Value of metacore.dev/rotate-secrets last acted on."
    )
    conditions: tuple[Condition, ...] = Field(default=(), strict=False)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)
