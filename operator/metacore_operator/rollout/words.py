"""What can be said of a change of the mode. docs/mode-rollout.md lists every word, a test holds the two."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """One word for people; programs read the conditions."""

    SETTLED = "Settled"
    WAITING = "Waiting"
    CANARY = "Canary"
    ROLLING = "Rolling"
    RETURNING = "Returning"
    REFUSED = "Refused"


class RolloutReason(StrEnum):
    """Every reason that a condition or an Event of a ModeRollout can have."""

    # Good.
    WISH_MET = "WishMet"
    # Under way, or waiting for something outside.
    CANARY_RUNNING = "CanaryRunning"
    ROLLING_OUT = "RollingOut"
    DEPLOYMENT_BUSY = "DeploymentBusy"
    DEPLOYMENT_PAUSED = "DeploymentPaused"
    VIOLATIONS_UNKNOWN = "ViolationsUnknown"
    # Refused, or returned from.
    WISH_UNKNOWN = "WishUnknown"
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    TOO_MANY_VIOLATIONS = "TooManyViolations"
    PODS_FAILING = "PodsFailing"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    MODE_NOT_OBSERVED = "ModeNotObserved"


ALARMING = frozenset(
    {
        RolloutReason.WISH_UNKNOWN,
        RolloutReason.CONFIG_MAP_MISSING,
        RolloutReason.TOO_MANY_VIOLATIONS,
        RolloutReason.PODS_FAILING,
        RolloutReason.DEADLINE_EXCEEDED,
        RolloutReason.MODE_NOT_OBSERVED,
    }
)
"""Their Events are warnings."""
