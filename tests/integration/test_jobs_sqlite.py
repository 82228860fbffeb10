"""Jobs in a program that embeds the kernel on SQLite: the same promises, by one process."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.arrivals import PATIENCE, Arrivals
from tests.factories import make_organization
from tests.job_world import busy_manifest, compiled
from tests.tickets import TRUSTED, make_bundle, signed

from metacore import App, AppConfig
from metacore.addons.handlers.compiled import FunctionCall
from metacore.addons.jobs import retry
from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.installer.job_rows import WEBHOOK, Work

MANIFEST = busy_manifest(
    lifecycle={"install": compiled("on_install"), "enable": compiled("on_enable"), "uninstall": compiled("on_leave")},
    schedules=[{"key": "tick", "every": "30d", "do": compiled("tick")}],
    contributions={"subscriptions": [{"event": "tickets.*", "handler": compiled("hear")}]},
)


@dataclass
class Small:
    """One App on a file, its installer, and what its functions were called with."""

    app: App
    db: Database
    installer: Installer
    calls: Arrivals[FunctionCall]

    def names(self) -> list[str]:
        return [call.function for call in self.calls.items]

    async def rows(self, condition: str = "1") -> Sequence[Any]:
        async with self.db.transaction(None) as connection:
            return (await connection.execute(sa.text(f"SELECT * FROM metacore_jobs WHERE {condition}"))).all()

    async def until(self, condition: str) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (rows := await self.rows(condition)):  # noqa: ASYNC110 - a worker writes them.
                await asyncio.sleep(0.02)
        return rows[0]


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Small]:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)
    db = await Database.connect(f"sqlite:///{tmp_path / 'metacore.db'}")
    app = App(AppConfig(database=db, jwt_secret="a secret of the tests of 32 bytes at least", heartbeat_interval=0.1))
    calls: Arrivals[FunctionCall] = Arrivals()

    def answer(call: FunctionCall) -> Any:
        calls(call)
        first = sum(other.invocation_id == call.invocation_id for other in calls.items) == 1
        return {"success": not (call.function == "flaky" and first), "error": {"code": "again"}}

    async def work(call: FunctionCall) -> Any:
        return answer(call)

    for name in ("on_install", "on_enable", "on_leave", "tick", "hear", "flaky"):
        app.functions.register("tickets", name, work)
    async with app:
        yield Small(app, db, Installer(db, farewell_seconds=10.0), calls)
    await db.close()


async def test_an_addon_s_whole_life(small: Small) -> None:
    acme = await make_organization(small.db)
    content, signature = signed(make_bundle(MANIFEST))
    await small.installer.install(content, signature, trusted=TRUSTED, organizations=[acme])
    await small.calls.reach(2)
    assert small.names() == ["on_install", "on_enable"]
    await small.until("name = 'enable' AND status = 'done'")

    schedule = await small.until("kind = 'schedule' AND status = 'waiting'")
    due = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    async with small.db.transaction(None) as connection:
        await connection.execute(
            sa.text("UPDATE metacore_jobs SET run_at = :due WHERE kind = 'schedule'"), {"due": due.replace(tzinfo=None)}
        )
    small.app.jobs.worker.wake()
    await small.calls.reach(3)
    assert small.names()[2] == "tick"
    later = await small.until("kind = 'schedule' AND status = 'waiting' AND attempts = 0 AND started_at IS NOT NULL")
    assert later.progress >= schedule.progress

    for number in range(3):
        async with small.db.transaction(acme) as connection:
            await connection.execute(
                sa.text(
                    "INSERT INTO metacore_events (organization_id, addon_key, event_type, data)"
                    " VALUES (:organization, 'tickets', 'tickets.Ticket.created', :data)"
                ),
                {"organization": acme.hex, "data": f'{{"n": {number}}}'},
            )
    small.app.relay.wake()
    await small.calls.reach(6)
    assert [call.payload["data"]["n"] for call in small.calls.items[3:]] == [0, 1, 2]

    await small.installer.uninstall("tickets", acme, drop=True)
    assert small.names()[-1] == "on_leave"
    assert {row.status for row in await small.rows()} == {"done"}


async def test_a_job_is_tried_again_and_once_by_its_name(small: Small) -> None:
    acme = await make_organization(small.db)
    content, signature = signed(make_bundle(busy_manifest()))
    await small.installer.install(content, signature, trusted=TRUSTED, organizations=[acme])
    handler = {"kind": "compiled", "function": "flaky", "url": ""}
    jobs = [
        Work(
            organization_id=acme, addon_key="tickets", kind=WEBHOOK, name="flaky", handler=handler, dedup=name, lane="a"
        )
        for name in ("one", "one", "two")
    ]
    assert [await small.app.jobs.enqueue(job) for job in jobs] == [True, False, True]
    await small.calls.reach(4)
    assert [call.invocation_id for call in small.calls.items] == [jobs[0].id] * 2 + [jobs[2].id] * 2
    async with asyncio.timeout(PATIENCE):
        while {row.status for row in await small.rows()} != {"done"}:  # noqa: ASYNC110 - a worker writes them.
            await asyncio.sleep(0.02)
