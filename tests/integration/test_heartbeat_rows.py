"""What a kernel says of itself, what it hears at that, and when it counts as healthy."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from tests.arrivals import Arrivals

from metacore.addons import heartbeat as beating
from metacore.addons.heartbeat import Heartbeat
from metacore.addons.loader import Loader
from metacore.db.database import Database
from metacore.manifest.model import Manifest
from metacore.metrics import Metrics
from metacore.orm.tables import Epoch
from metacore.orm.tables import Heartbeat as Row
from metacore.registry import LiveAddon, Registry
from metacore.version import __version__

FAR = 3600.0


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest) -> Database:
    name = "kernel_db" if request.param == "postgresql" else "sqlite_db"
    served: Database = request.getfixturevalue(name)
    return served


def beater(database: Database, pod: str = "pod-1", **options: Any) -> tuple[Heartbeat, Registry]:
    registry = Registry()
    return Heartbeat(database, Loader(database, registry), pod=pod, interval=FAR, **options), registry


async def rows(database: Database) -> dict[str, Any]:
    async with database.transaction(None) as connection:
        return {row.pod: row for row in await connection.execute(select(Row))}


async def test_the_row_tells_pod_mode_build_revision_and_every_addon(database: Database) -> None:
    heart, registry = beater(database, mode="enforce")
    manifest = Manifest(api="v3", key="shop", name="Shop", version="1.0.0")
    registry.replace(
        7,
        {
            "shop": LiveAddon(key="shop", version="1.0.0", digest="ab", manifest=manifest),
            "desk": LiveAddon(key="desk", version="2.0.0", digest="cd", manifest=manifest, error="no table"),
        },
        {},
    )
    await heart.beat()
    row = (await rows(database))["pod-1"]
    assert (row.mode, row.build, row.revision) == ("enforce", __version__, 7)
    assert row.addons == {"shop": {"digest": "ab", "error": ""}, "desk": {"digest": "cd", "error": "no table"}}


async def test_each_beat_moves_the_time_and_keeps_the_start(database: Database) -> None:
    heart, _ = beater(database)
    await heart.beat()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=30)
    async with database.transaction(None) as connection:
        await connection.execute(update(Row).values(seen_at=past, started_at=past))
    await heart.beat()
    row = (await rows(database))["pod-1"]
    assert row.seen_at > past
    assert row.started_at == past


async def test_kernels_have_rows_of_their_own_and_take_theirs_away(database: Database) -> None:
    first, _ = beater(database, "pod-1")
    second, _ = beater(database, "pod-2")
    await first.start()
    await second.start()
    assert set(await rows(database)) == {"pod-1", "pod-2"}
    await first.stop()
    assert set(await rows(database)) == {"pod-2"}
    await second.stop()


async def test_rows_of_kernels_that_died_are_forgotten_after_an_hour(database: Database) -> None:
    heart, _ = beater(database)
    now = datetime.datetime.now(datetime.UTC)
    dead = {"mode": "shadow", "build": "0", "revision": 0, "addons": {}}
    async with database.transaction(None) as connection:
        for pod, minutes in (("long-dead", 61), ("just-dead", 59)):
            seen = now - datetime.timedelta(minutes=minutes)
            await connection.execute(insert(Row).values(pod=pod, seen_at=seen, **dead))
    await heart.beat()
    assert set(await rows(database)) == {"just-dead", "pod-1"}


async def test_epochs_are_handed_to_whoever_caches(database: Database) -> None:
    heart, _ = beater(database)
    heard: list[dict[str, int]] = []
    heart.on_epochs(lambda epochs: heard.append(dict(epochs)))
    await heart.beat()
    async with database.transaction(None) as connection:
        await connection.execute(update(Epoch).where(Epoch.name == "permissions").values(value=Epoch.value + 3))
    await heart.beat()
    assert heard[1]["permissions"] == heard[0]["permissions"] + 3
    assert heard[1]["auth"] == heard[0]["auth"]


async def test_it_beats_by_itself(database: Database) -> None:
    registry, beats = Registry(), Arrivals[int]()
    heart = Heartbeat(database, Loader(database, registry), pod="pod-1", interval=0.01)
    heart.on_epochs(lambda epochs: beats(1))
    await heart.start()
    await beats.reach(4)
    await heart.stop()


async def test_without_a_name_the_pod_is_host_and_process(kernel_db: Database) -> None:
    heart, _ = beater(kernel_db, "")
    assert heart.pod.rpartition("-")[2].isdigit()


async def test_a_kernel_that_cannot_write_for_ten_seconds_is_not_healthy(
    owner_db: Database, kernel_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(beating, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    metrics = Metrics(process=False)
    heart, _ = beater(kernel_db, metrics=metrics)
    await heart.told()
    assert heart.healthy
    assert b"metacore_heartbeat_healthy 1.0" in metrics.render()
    await owner_db.postgres.execute("REVOKE INSERT, UPDATE ON metacore_heartbeats FROM metacore_kernel")
    clock[0] += 9.9
    await heart.told()
    assert heart.healthy
    clock[0] += 0.2
    await heart.told()
    assert not heart.healthy
    assert b"metacore_heartbeat_healthy 0.0" in metrics.render()
    assert "heartbeat.failed" in caplog.text
    await owner_db.postgres.execute("GRANT INSERT, UPDATE ON metacore_heartbeats TO metacore_kernel")
    await heart.told()
    assert heart.healthy


async def test_stopping_without_a_database_ends(
    owner_db: Database, kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    heart, _ = beater(kernel_db)
    await heart.start()
    await owner_db.postgres.execute("REVOKE DELETE ON metacore_heartbeats FROM metacore_kernel")
    await heart.stop()
    assert "heartbeat.farewell_failed" in caplog.text


async def test_an_addon_that_appears_is_told_with_its_digest(kernel_db: Database) -> None:
    heart, registry = beater(kernel_db)
    await heart.beat()
    manifest = Manifest(api="v3", key="shop", name="Shop", version="1.0.0")
    registry.replace(1, {"shop": LiveAddon(key="shop", version="1", digest="ab", manifest=manifest)}, {})
    await heart.told()
    stored = await kernel_db.postgres.fetchval("SELECT addons FROM metacore_heartbeats")
    assert json.loads(stored)["shop"] == {"digest": "ab", "error": ""}
