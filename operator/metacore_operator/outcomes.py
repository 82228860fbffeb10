"""What a step of the reconcile says when it is over, and the vocabulary of conditions.

Three kinds of result only, after Flux: the step is done; it waits for something outside; or it is stalled until
somebody changes the spec, the bundle or the trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 300.0


class ConditionType(StrEnum):
    """Every condition type of an Addon. The first three have kstatus' meaning."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    FETCHED = "Fetched"
    VERIFIED = "Verified"
    PREFLIGHT_PASSED = "PreflightPassed"
    CAPABILITIES_ACCEPTED = "CapabilitiesAccepted"
    MIGRATED = "Migrated"
    INSTALLED = "Installed"
    SERVED = "Served"
    DRIFTED = "Drifted"


class Reason(StrEnum):
    """Every reason that a condition or an Event of an Addon can have."""

    # Good.
    SUCCEEDED = "Succeeded"
    SOURCE_AVAILABLE = "SourceAvailable"
    SIGNATURE_VERIFIED = "SignatureVerified"
    UNSIGNED_ALLOWED = "UnsignedAllowed"
    PLAN_ACCEPTED = "PlanAccepted"
    CAPABILITIES_GRANTED = "CapabilitiesGranted"
    INSTALLED = "Installed"
    DISABLED = "Disabled"
    ACKNOWLEDGED = "Acknowledged"
    NO_DRIFT = "NoDrift"
    DRIFT_MENDED = "DriftMended"
    REMOVED = "Removed"
    # Under way, or waiting for something outside.
    PROGRESSING = "Progressing"
    SUSPENDED = "Suspended"
    DELETING = "Deleting"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    CAPABILITIES_PENDING = "CapabilitiesPending"
    ORGANIZATIONS_MISSING = "OrganizationsMissing"
    DEPENDENCY_PENDING = "DependencyPending"
    NEEDED_BY_OTHERS = "NeededByOthers"
    REFERENCE_UNAVAILABLE = "ReferenceUnavailable"
    INSTALL_FAILED = "InstallFailed"
    KERNELS_PENDING = "KernelsPending"
    KERNEL_ERROR = "KernelError"
    HANDLERS_PENDING = "HandlersPending"
    HANDLER_FAILED = "HandlerFailed"
    NO_KERNELS = "NoKernels"
    DRIFT_FOUND = "DriftFound"
    STEP_FAILED = "StepFailed"
    # Stalled.
    SPEC_INVALID = "SpecInvalid"
    SOURCE_UNSUPPORTED = "SourceUnsupported"
    SOURCE_REFUSED = "SourceRefused"
    SETTINGS_UNSUPPORTED = "SettingsUnsupported"
    SETTINGS_REFUSED = "SettingsRefused"
    BUNDLE_INVALID = "BundleInvalid"
    SIGNATURE_REFUSED = "SignatureRefused"
    KEY_REVOKED = "KeyRevoked"
    DIGEST_MISMATCH = "DigestMismatch"
    KEY_MISMATCH = "KeyMismatch"
    VERSION_MISMATCH = "VersionMismatch"
    KERNEL_INCOMPATIBLE = "KernelIncompatible"
    KEY_OWNED = "KeyOwned"
    MODEL_CONFLICT = "ModelConflict"
    DEPENDENCY_CYCLE = "DependencyCycle"
    DOWNGRADE_REFUSED = "DowngradeRefused"
    PLAN_REFUSED = "PlanRefused"
    DATA_AT_RISK = "DataAtRisk"
    MIGRATION_RISKY = "MigrationRisky"
    REHEARSAL_FAILED = "RehearsalFailed"
    ORGANIZATION_AMBIGUOUS = "OrganizationAmbiguous"
    FENCED = "Fenced"


@dataclass(frozen=True, slots=True)
class Done:
    reason: Reason = Reason.SUCCEEDED
    message: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Try again by itself: after `retry_after` seconds, or with None after a growing delay (`retry_delay`).

    `proceed` lets the following steps run all the same, with what this one could get. One that is not `decisive` is
    told by the conditions of its step only: what is installed is no less ready for it.
    """

    reason: Reason
    message: str
    retry_after: float | None = None
    proceed: bool = False
    decisive: bool = True


@dataclass(frozen=True, slots=True)
class Stalled:
    """Trying again changes nothing until the spec, the bundle, the trust or what is installed changes."""

    reason: Reason
    message: str


Outcome = Done | Waiting | Stalled


@dataclass(frozen=True, slots=True)
class StepResult:
    """`conditions` are those that the step decides; none for a step that only prepares others."""

    step: str
    conditions: tuple[ConditionType, ...]
    outcome: Outcome


def decides(outcome: Outcome) -> bool:
    """Whether this keeps an Addon from being ready."""
    return not isinstance(outcome, Done) and (isinstance(outcome, Stalled) or outcome.decisive)


def retry_delay(failures: int) -> float:
    """Seconds until the next try after `failures` in a row: doubling from one second to five minutes."""
    return min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * float(2 ** min(max(failures - 1, 0), 30)))
