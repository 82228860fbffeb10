"""How things stand: what kernels say of their mode, and how every addon is held. For the owner's database."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from metacore.capabilities.access import Mode
from metacore.capabilities.modes import Asked, mode_from_words
from metacore.db.database import Database
from metacore.manifest.model import Capability
from metacore.orm.tables import Addon, Heartbeat, ModeRow

LIVE_SECONDS: Final = 10
"""A kernel that was not heard of for longer is not live (architecture, decision 5)."""
MIXED: Final = "mixed"


@dataclass(frozen=True, slots=True)
class KernelStanding:
    """A live kernel. `silent_for` is the number of seconds since its last heartbeat."""

    pod: str
    mode: str
    build: str
    revision: int
    silent_for: float


@dataclass(frozen=True, slots=True)
class AddonStanding:
    """An installed addon. `own` is inherit or enforce; `grants` are what was accepted."""

    key: str
    version: str
    digest: str
    own: str
    fenced: bool
    grants: tuple[Capability, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    asked: Asked | None
    kernels: Sequence[KernelStanding]
    addons: Sequence[AddonStanding]

    @property
    def mode(self) -> str:
        """shadow or enforce when every live kernel says so, else mixed; '' without one."""
        modes = {kernel.mode for kernel in self.kernels}
        return MIXED if len(modes) > 1 else next(iter(modes), "")

    def effective(self, addon: AddonStanding) -> str:
        """How `addon` is held: enforce when it wants that, else what the kernels do."""
        return Mode.ENFORCE.value if addon.own == Mode.ENFORCE else self.mode


async def read_standing(owner: Database) -> Standing:
    async with owner.transaction(None) as connection:
        now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        asked = (await connection.execute(sa.select(ModeRow))).one_or_none()
        kernels = [
            KernelStanding(row.pod, row.mode, row.build, row.revision, max(0.0, (now - row.seen_at).total_seconds()))
            for row in await connection.execute(
                sa.select(Heartbeat)
                .where(Heartbeat.seen_at > now - datetime.timedelta(seconds=LIVE_SECONDS))
                .order_by(Heartbeat.pod)
            )
        ]
        addons = [
            AddonStanding(
                key=row.key,
                version=row.version,
                digest=row.digest,
                own=row.mode,
                fenced=bool(row.fenced_reason),
                grants=tuple(Capability.model_validate(grant) for grant in row.grants),
            )
            for row in await connection.execute(sa.select(Addon).where(Addon.digest.is_not(None)).order_by(Addon.key))
        ]
    mode = mode_from_words(asked.mode) if asked is not None else None
    wish = Asked(mode, asked.changed_by, asked.changed_at) if asked is not None and mode is not None else None
    return Standing(wish, kernels, addons)
