"""What the operator is told from outside, with the defaults of folder mode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReconcileSettings:
    """Durations in seconds.

    `resync` is how often the folder and a settled Addon are looked at though nothing seemed to happen, `pulse` how
    often the database is asked whether something did, `settle` how long a removed declaration must stay away before it
    counts as deleted (an editor may write a file in two steps), `workers` how many Addons are worked on at once.
    """

    resync: float = 60.0
    pulse: float = 2.0
    settle: float = 1.0
    workers: int = 2
