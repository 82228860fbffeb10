"""What the database knows of pods and of what addons did: the rest of what a decision rests on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import orjson

from metacore.capabilities.grants import Grants
from metacore.db.database import Database
from metacore.manifest.model import Capability

LIVE_SECONDS = 10
"""A kernel is alive when it wrote a heartbeat within so many seconds of database time (architecture, decision 5)."""


class Evidence(Protocol):
    async def modes(self) -> Mapping[str, str]:
        """The mode of each live kernel by its pod."""
        ...

    async def violations(self, seconds: float) -> int:
        """What of the last `seconds` enforcement would refuse today, over all organizations: violations recorded in
        shadow, without those that are refused in both modes and those that were granted since.
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
        recorded = await self._owner.postgres.fetch(
            "SELECT addon_key, kind, target, sum(count)::bigint AS count FROM metacore_violations"
            " WHERE mode = 'shadow' AND NOT forbidden AND last_at > clock_timestamp() - make_interval(secs => $1)"
            " GROUP BY addon_key, kind, target",
            seconds,
        )
        granted = await self._granted({row["addon_key"] for row in recorded}) if recorded else {}
        nothing = Grants("")
        return sum(
            row["count"]
            for row in recorded
            if not granted.get(row["addon_key"], nothing).cover(row["kind"], row["target"], None)
        )

    async def _granted(self, keys: Collection[str]) -> Mapping[str, Grants]:
        rows = await self._owner.postgres.fetch(
            "SELECT key, grants FROM metacore_addons WHERE key = ANY ($1::text[])", list(keys)
        )
        return {
            row["key"]: Grants(row["key"], map(Capability.model_validate, orjson.loads(row["grants"] or "[]")))
            for row in rows
        }
