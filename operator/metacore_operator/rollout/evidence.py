"""What the database knows of pods and of what addons did: the rest of what a decision rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from metacore.db.database import Database

LIVE_SECONDS = 10
"""A kernel is alive when it wrote a heartbeat within so many seconds of database time (architecture, decision 5)."""


class Evidence(Protocol):
    async def modes(self) -> Mapping[str, str]:
        """The mode of each live kernel by its pod."""
        ...

    async def violations(self, seconds: float) -> int:
        """What enforcement would have refused in the last `seconds`, over all organizations: violations recorded in
        shadow, without those that are refused in both modes.
        """
        ...


class DatabaseEvidence:
    """`Evidence` read as the owner role, which sees every tenant."""

    def __init__(self, owner: Database) -> None:
        self._owner = owner

    async def modes(self) -> Mapping[str, str]:
        rows = await self._owner.postgres.fetch(
            "SELECT pod, mode FROM metacore_heartbeats WHERE seen_at > clock_timestamp() - make_interval(secs => $1)",
            LIVE_SECONDS,
        )
        return {row["pod"]: row["mode"] for row in rows}

    async def violations(self, seconds: float) -> int:
        # Kernels add them up by the hour, so an hour that began before the window counts as a whole.
        return int(
            await self._owner.postgres.fetchval(
                "SELECT coalesce(sum(count), 0) FROM metacore_violations WHERE mode = 'shadow' AND NOT forbidden"
                " AND last_at > clock_timestamp() - make_interval(secs => $1)",
                seconds,
            )
        )
