"""Reading what was recorded: page by page for a tenant, summed up over all of them for the owner."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from metacore.capabilities.tally import NO_ORGANIZATION
from metacore.db.database import Database
from metacore.orm.capabilities import ViolationRow


@dataclass(frozen=True, slots=True)
class ViolationFilter:
    """Which violations: those that happened since `since`, to the hour. Empty strings and None take all."""

    since: datetime.datetime
    addon_key: str = ""
    kind: str = ""
    mode: str = ""
    forbidden: bool | None = None


@dataclass(frozen=True, slots=True)
class RecordedViolation:
    """Equal violations of a window, counted; `organization_id` is None where no tenant is behind it."""

    addon_key: str
    kind: str
    target: str
    organization_id: uuid.UUID | None
    caller: str
    mode: str
    forbidden: bool
    count: int
    first_at: datetime.datetime
    last_at: datetime.datetime

    def as_json(self) -> dict[str, Any]:
        return {
            "addon": self.addon_key,
            "kind": self.kind,
            "target": self.target,
            "organization": self.organization_id,
            "caller": self.caller,
            "mode": self.mode,
            "forbidden": self.forbidden,
            "count": self.count,
            "first": self.first_at,
            "last": self.last_at,
        }


@dataclass(frozen=True, slots=True)
class ViolationSum:
    """Violations of a window over all organizations and callers. `shadow` of them passed, `refused` did not because
    the mode was enforce; where `forbidden`, all were refused. `organizations` counts those behind it."""

    addon_key: str
    kind: str
    target: str
    forbidden: bool
    shadow: int
    refused: int
    organizations: int
    first_at: datetime.datetime
    last_at: datetime.datetime

    @property
    def count(self) -> int:
        return self.shadow + self.refused

    def as_json(self) -> dict[str, Any]:
        return {
            "addon": self.addon_key,
            "kind": self.kind,
            "target": self.target,
            "forbidden": self.forbidden,
            "count": self.count,
            "allowed": 0 if self.forbidden else self.shadow,
            "refused": self.count if self.forbidden else self.refused,
            "organizations": self.organizations,
            "first": self.first_at.isoformat(),
            "last": self.last_at.isoformat(),
        }


_V = ViolationRow
_WHAT = (_V.addon_key, _V.kind, _V.target, _V.organization_id, _V.caller, _V.mode, _V.forbidden)


async def list_violations(
    database: Database, organization_id: uuid.UUID, wanted: ViolationFilter, *, page: int, per_page: int
) -> tuple[Sequence[RecordedViolation], int]:
    """One page of what addons did in this organization, the latest first, and how many there are in all."""
    last = sa.func.max(_V.last_at).label("last_at")
    grouped = (
        sa.select(*_WHAT, sa.func.sum(_V.count).label("many"), sa.func.min(_V.first_at).label("first_at"), last)
        # RLS says the same on PostgreSQL; SQLite has nothing else, and neither has an owner.
        .where(_V.organization_id == organization_id, *_conditions(wanted))
        .group_by(*_WHAT)
    )
    async with database.transaction(organization_id) as connection:
        total = await connection.scalar(sa.select(sa.func.count()).select_from(grouped.subquery()))
        rows = await connection.execute(
            grouped.order_by(last.desc(), *_WHAT).limit(per_page).offset((page - 1) * per_page)
        )
        found = [_recorded(row) for row in rows]
    return found, int(total or 0)


async def sum_violations(owner: Database, wanted: ViolationFilter) -> Sequence[ViolationSum]:
    """What addons did anywhere, by addon, then the most frequent first. For the owner's database."""
    shadow = sa.func.sum(sa.case((_V.mode == "shadow", _V.count), else_=0)).label("shadow")
    refused = sa.func.sum(sa.case((_V.mode == "shadow", 0), else_=_V.count)).label("refused")
    statement = (
        sa.select(
            _V.addon_key,
            _V.kind,
            _V.target,
            _V.forbidden,
            shadow,
            refused,
            sa.func.count(sa.distinct(sa.case((_V.organization_id != NO_ORGANIZATION, _V.organization_id)))).label(
                "organizations"
            ),
            sa.func.min(_V.first_at).label("first_at"),
            sa.func.max(_V.last_at).label("last_at"),
        )
        .where(*_conditions(wanted))
        .group_by(_V.addon_key, _V.kind, _V.target, _V.forbidden)
        .order_by(_V.addon_key, sa.func.sum(_V.count).desc(), _V.kind, _V.target)
    )
    async with owner.transaction(None) as connection:
        return [
            ViolationSum(
                addon_key=row.addon_key,
                kind=row.kind,
                target=row.target,
                forbidden=row.forbidden,
                shadow=int(row.shadow),
                refused=int(row.refused),
                organizations=row.organizations,
                first_at=row.first_at,
                last_at=row.last_at,
            )
            for row in await connection.execute(statement)
        ]


def merge_forbidden(sums: Sequence[ViolationSum]) -> list[ViolationSum]:
    """`sums` with one entry per target: in shadow, what is forbidden was recorded as not granted just before."""
    forbidden = {(item.addon_key, item.kind, item.target): item for item in sums if item.forbidden}
    merged: dict[tuple[str, str, str], ViolationSum] = {}
    for item in sums:
        what = (item.addon_key, item.kind, item.target)
        twin = forbidden.get(what)
        if twin is None or item.forbidden:
            merged.setdefault(what, item)
        else:
            merged[what] = replace(
                twin,
                refused=twin.refused + item.refused,
                organizations=max(twin.organizations, item.organizations),
                first_at=min(twin.first_at, item.first_at),
                last_at=max(twin.last_at, item.last_at),
            )
    return list(merged.values())


def _conditions(wanted: ViolationFilter) -> list[sa.ColumnElement[bool]]:
    hour = wanted.since.replace(minute=0, second=0, microsecond=0)
    conditions = [_V.hour >= hour, _V.last_at >= wanted.since]
    if wanted.addon_key:
        conditions.append(_V.addon_key == wanted.addon_key)
    if wanted.kind:
        conditions.append(_V.kind == wanted.kind)
    if wanted.mode:
        conditions.append(_V.mode == wanted.mode)
    if wanted.forbidden is not None:
        conditions.append(_V.forbidden.is_(wanted.forbidden))
    return conditions


def _recorded(row: Any) -> RecordedViolation:
    return RecordedViolation(
        addon_key=row.addon_key,
        kind=row.kind,
        target=row.target,
        organization_id=row.organization_id if row.organization_id != NO_ORGANIZATION else None,
        caller=row.caller,
        mode=row.mode,
        forbidden=row.forbidden,
        # A sum of bigint is numeric in PostgreSQL.
        count=int(row.many),
        first_at=row.first_at,
        last_at=row.last_at,
    )
