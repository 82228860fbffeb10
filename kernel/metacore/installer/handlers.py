"""The jobs that an installation brings: handlers of its life, its schedules, its subscriptions.

They are written in the transaction that commits what they belong to. Kernels run them: code of an addon never runs
where the owner's rights are (architecture 8).
"""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.bundle.read import read_bundle
from metacore.installer import job_rows
from metacore.installer.job_rows import Work
from metacore.manifest.model import Manifest
from metacore.manifest.ranges import parse_range, parse_version
from metacore.manifest.timing import next_run
from metacore.orm.tables import Addon, Bundle, EventCounter, Installation, Job

LANE: Final = "lifecycle"
COMPILED: Final = "compiled"
"""What is linked into a host: the host calls its lifecycle methods itself (`addons.lifecycle`)."""
SUBSCRIPTIONS: Final = "subscriptions"
RECURRING: Final = (job_rows.SCHEDULE, job_rows.SUBSCRIPTION)


async def installed(
    connection: AsyncConnection,
    manifest: Manifest,
    digest: str,
    *,
    source: str,
    joining: Collection[uuid.UUID],
    before: Mapping[uuid.UUID, tuple[str, str]],
    revision: int,
) -> None:
    """Write what follows from an installation that is being committed.

    `joining` organizations are new. `before` gives version and status of the others as they were. Those whose former
    version never came through its own installing start over with the new one; handlers that wait for older code are
    taken back, because that code is gone.
    """
    works: list[Work] = []
    for organization in joining:
        works += _lifecycle(manifest, digest, source, organization, ("install", "enable"), revision)
    changed = [place for place, (version, _) in before.items() if version != manifest.version]
    unfinished = await _take_back(connection, manifest.key, digest)
    for organization in sorted({*changed, *(place for place in unfinished if place in before)}):
        events = unfinished.get(organization, [])
        if "install" in events:
            works += _lifecycle(manifest, digest, source, organization, ("install", "enable"), revision)
        elif organization in changed:
            works += _upgrade(manifest, digest, source, organization, before[organization][0], revision)
    await job_rows.enqueue(connection, works)
    enabled = {organization: status == "enabled" for organization, (_, status) in before.items()}
    await _settle_recurring(connection, manifest, digest, {**enabled, **dict.fromkeys(joining, True)})


async def switched(
    connection: AsyncConnection, key: str, organization: uuid.UUID, *, enabled: bool, revision: int
) -> None:
    """Write what follows from enabling or disabling: its handler, and the rest or return of what recurs.

    What happened while it was disabled is not told to its subscriptions.
    """
    found = await stored(connection, key)
    if found is None:
        return
    manifest, digest, source = found
    event = "enable" if enabled else "disable"
    # What failed at an earlier switch is of no interest any more.
    await connection.execute(
        delete(Job).where(
            Job.addon_key == key,
            Job.organization_id == organization,
            Job.kind == job_rows.LIFECYCLE,
            Job.name.in_(["enable", "disable"]),
            Job.status == job_rows.FAILED,
        )
    )
    works = _lifecycle(manifest, digest, source, organization, (event,), revision)
    await job_rows.enqueue(connection, works)
    mine = (Job.addon_key == key, Job.organization_id == organization, Job.kind.in_(RECURRING))
    if not enabled:
        await connection.execute(update(Job).where(*mine).values(status=job_rows.PAUSED, leased_by="", attempts=0))
        return
    await connection.execute(delete(Job).where(*mine))
    await _settle_recurring(connection, manifest, digest, {organization: True})


async def left(connection: AsyncConnection, key: str, organizations: Collection[uuid.UUID]) -> None:
    """Take away what still waits in organizations that lose the addon. What ended stays to be seen for a while."""
    await connection.execute(
        delete(Job).where(
            Job.addon_key == key,
            Job.organization_id.in_(organizations),
            Job.status.not_in([job_rows.DONE, job_rows.FAILED]),
        )
    )


async def places_of(connection: AsyncConnection, key: str) -> list[uuid.UUID]:
    """The organizations that have the addon."""
    rows = await connection.execute(select(Installation.organization_id).where(Installation.addon_key == key))
    return [row.organization_id for row in rows]


async def farewell(connection: AsyncConnection, key: str, organizations: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Write the jobs of `lifecycle.uninstall`, once per installation; their ids, those that are written already too."""
    found = await stored(connection, key)
    if found is None:
        return []
    manifest, digest, source = found
    handlers = _handlers(manifest, source, "uninstall")
    rows = await connection.execute(
        select(Installation.id, Installation.organization_id).where(
            Installation.addon_key == key, Installation.organization_id.in_(organizations)
        )
    )
    names: list[str] = []
    works: list[Work] = []
    for row in rows.all():
        for index, handler in enumerate(handlers):
            names.append(f"uninstall:{row.id}:{index}")
            works.append(_work(manifest, digest, row.organization_id, "uninstall", handler, names[-1]))
    await job_rows.enqueue(connection, works)
    written = await connection.execute(select(Job.id).where(Job.addon_key == key, Job.dedup.in_(names)))
    return [row.id for row in written]


async def stored(connection: AsyncConnection, key: str) -> tuple[Manifest, str, str] | None:
    """Manifest, digest and source of the addon that is installed and trusted; None where there is none."""
    row = (
        await connection.execute(
            select(Bundle.content, Addon.digest, Addon.source)
            .join(Bundle, Bundle.digest == Addon.digest)
            .where(Addon.key == key, Addon.fenced_reason == "")
        )
    ).first()
    if row is None:
        return None
    bundle = await asyncio.to_thread(read_bundle, row.content)
    return bundle.manifest, row.digest, row.source


# Handlers of its life


def _handlers(manifest: Manifest, source: str, event: str) -> list[dict[str, str]]:
    found = [job_rows.handler_of(written) for written in manifest.lifecycle.get(event, ())]
    return [handler for handler in found if not (source == COMPILED and handler["kind"] == COMPILED)]


def _lifecycle(
    manifest: Manifest, digest: str, source: str, organization: uuid.UUID, events: Sequence[str], revision: int
) -> list[Work]:
    return [
        _work(manifest, digest, organization, event, handler, f"{event}:{revision}:{index}")
        for event in events
        for index, handler in enumerate(_handlers(manifest, source, event))
    ]


def _upgrade(
    manifest: Manifest, digest: str, source: str, organization: uuid.UUID, version: str, revision: int
) -> list[Work]:
    """The steps whose range holds the version that was there. Steps of type sql are the bundle's migrations."""
    works = []
    for index, step in enumerate(manifest.lifecycle.get("upgrade", ())):
        handler = job_rows.handler_of(step)
        if handler["kind"] == "sql" or (source == COMPILED and handler["kind"] == COMPILED):
            continue
        if handler["kind"] == "webhook":
            handler = {"kind": "webhook", "function": "", "url": handler["function"]}
        if parse_range(str(step.get("from", "*"))).admits(parse_version(version)):
            payload = {"from": version}
            works.append(
                _work(manifest, digest, organization, "upgrade", handler, f"upgrade:{revision}:{index}", payload)
            )
    return works


def _work(
    manifest: Manifest,
    digest: str,
    organization: uuid.UUID,
    event: str,
    handler: Mapping[str, str],
    dedup: str,
    payload: Mapping[str, Any] | None = None,
) -> Work:
    return Work(
        organization_id=organization,
        addon_key=manifest.key,
        kind=job_rows.LIFECYCLE,
        name=event,
        handler=handler,
        payload={"event": event, "version": manifest.version, **(payload or {})},
        digest=digest,
        dedup=dedup,
        lane=LANE,
    )


async def _take_back(connection: AsyncConnection, key: str, digest: str) -> dict[uuid.UUID, list[str]]:
    """Handlers of other code that did not come to a good end, by organization; they are gone afterwards."""
    mine = (
        Job.addon_key == key,
        Job.kind == job_rows.LIFECYCLE,
        Job.status != job_rows.DONE,
        Job.digest != digest,
        Job.name != "uninstall",
    )
    rows = await connection.execute(select(Job.organization_id, Job.name).where(*mine))
    found: dict[uuid.UUID, list[str]] = {}
    for row in rows.all():
        found.setdefault(row.organization_id, []).append(row.name)
    if found:
        await connection.execute(delete(Job).where(*mine))
    return found


# Schedules and subscriptions


async def _settle_recurring(
    connection: AsyncConnection, manifest: Manifest, digest: str, organizations: Mapping[uuid.UUID, bool]
) -> None:
    """Make the rows of what recurs those that the manifest says. A schedule keeps its next run unless its time changed,
    a subscription always keeps its place."""
    wanted = {f"schedule:{schedule.key}": schedule for schedule in manifest.schedules}
    rows = await connection.execute(
        select(Job.id, Job.organization_id, Job.dedup, Job.every).where(
            Job.addon_key == manifest.key, Job.kind.in_(RECURRING), Job.organization_id.in_(organizations)
        )
    )
    there = {(row.organization_id, row.dedup): row for row in rows.all()}
    names = {*wanted, *([SUBSCRIPTIONS] if manifest.subscriptions else [])}
    gone = [row.id for (_, dedup), row in there.items() if dedup not in names]
    stale = [row.id for (_, dedup), row in there.items() if dedup in wanted and row.every != wanted[dedup].every]
    if gone or stale:
        await connection.execute(delete(Job).where(Job.id.in_([*gone, *stale])))
    kept = {place for place, row in there.items() if row.id not in {*gone, *stale}}
    works: list[Work] = []
    counters = await _counters(connection, organizations) if SUBSCRIPTIONS in names else {}
    now = datetime.datetime.now(datetime.UTC)
    for dedup, schedule in wanted.items():
        handler = job_rows.handler_of(schedule.do)
        if kept:
            await connection.execute(
                update(Job)
                .where(Job.addon_key == manifest.key, Job.dedup == dedup, Job.organization_id.in_(organizations))
                .values(handler=handler, digest=digest)
            )
        for organization, enabled in organizations.items():
            if (organization, dedup) in kept:
                continue
            slot, begin = next_run(schedule.every, place_of(manifest.key, organization, schedule.key), now)
            works.append(
                Work(
                    organization_id=organization,
                    addon_key=manifest.key,
                    kind=job_rows.SCHEDULE,
                    name=schedule.key,
                    handler=handler,
                    digest=digest,
                    dedup=dedup,
                    run_at=begin,
                    status=job_rows.WAITING if enabled else job_rows.PAUSED,
                    every=schedule.every,
                    progress=int(slot.timestamp()),
                )
            )
    for organization, enabled in organizations.items():
        if SUBSCRIPTIONS in names and (organization, SUBSCRIPTIONS) not in kept:
            works.append(
                Work(
                    organization_id=organization,
                    addon_key=manifest.key,
                    kind=job_rows.SUBSCRIPTION,
                    name=SUBSCRIPTIONS,
                    dedup=SUBSCRIPTIONS,
                    status=job_rows.IDLE if enabled else job_rows.PAUSED,
                    progress=counters.get(organization, 0),
                )
            )
    await job_rows.enqueue(connection, works)


def place_of(key: str, organization: uuid.UUID, schedule: str) -> str:
    """The words that decide when within its spread a schedule comes."""
    return f"{key}:{organization}:{schedule}"


async def _counters(connection: AsyncConnection, organizations: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    rows = await connection.execute(
        select(EventCounter.organization_id, EventCounter.value).where(EventCounter.organization_id.in_(organizations))
    )
    return {row.organization_id: int(row.value) for row in rows}
