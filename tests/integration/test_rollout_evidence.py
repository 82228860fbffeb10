"""What stands before enforcing rests on what kernels really wrote."""

from __future__ import annotations

import datetime
import json
import uuid

from metacore.addons.heartbeat import Heartbeat
from metacore.addons.loader import Loader
from metacore.capabilities.access import Access, Mode
from metacore.capabilities.enforcer import Violation
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.writer import ViolationWriter
from metacore.db.database import Database
from metacore.registry import Registry
from metacore_operator.rollout.evidence import DatabaseEvidence

NOW = datetime.datetime.now(datetime.UTC)


def violation(
    *,
    organization: uuid.UUID | None = None,
    ago: datetime.timedelta = datetime.timedelta(),
    mode: Mode = Mode.SHADOW,
    forbidden: bool = False,
) -> Violation:
    access = Access("shop", "db:read", "addon_crm.contacts", organization or uuid.uuid4(), "tester")
    return Violation(access, mode, (NOW - ago).timestamp(), forbidden)


async def test_what_enforcement_would_refuse_is_counted_over_all_organizations_in_the_window(
    owner_db: Database, kernel_db: Database
) -> None:
    evidence = DatabaseEvidence(owner_db)
    assert await evidence.violations(3_600) == 0
    recorder = ViolationRecorder()
    acme = uuid.uuid4()
    recorder.record(violation(organization=acme))
    recorder.record(violation(organization=acme))
    recorder.record(violation())
    recorder.record(violation(ago=datetime.timedelta(hours=3)))
    # Neither of these would be any different afterwards.
    recorder.record(violation(mode=Mode.ENFORCE))
    recorder.record(violation(forbidden=True))
    assert await ViolationWriter(kernel_db, recorder).flush()
    assert await evidence.violations(3_600) == 3
    assert await evidence.violations(4 * 3_600) == 4


async def test_what_was_granted_since_does_not_stand_in_the_way(owner_db: Database, kernel_db: Database) -> None:
    recorder = ViolationRecorder()
    recorder.record(violation())
    assert await ViolationWriter(kernel_db, recorder).flush()
    granted = json.dumps([{"kind": "db:read", "target": "addon_crm.*", "reason": "contacts"}]).encode()
    add = "INSERT INTO metacore_addons (key, grants) VALUES ($1, $2)"
    await owner_db.postgres.execute(add, "other", granted)
    assert await DatabaseEvidence(owner_db).violations(3_600) == 1
    await owner_db.postgres.execute(add, "shop", granted)
    assert await DatabaseEvidence(owner_db).violations(3_600) == 0


async def test_the_modes_of_kernels_that_are_alive(owner_db: Database, kernel_db: Database) -> None:
    loader = Loader(kernel_db, Registry())
    await Heartbeat(kernel_db, loader, mode="enforce", pod="a").beat()
    await Heartbeat(kernel_db, loader, mode="shadow", pod="b").beat()
    await owner_db.postgres.execute(
        "UPDATE metacore_heartbeats SET seen_at = clock_timestamp() - interval '11 seconds' WHERE pod = 'b'"
    )
    assert await DatabaseEvidence(owner_db).modes() == {"a": "enforce"}
