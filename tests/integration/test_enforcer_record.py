"""Violations on their way into the table, on both databases, and who may see them there."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from tests.conftest import DatabaseUrls

from metacore import App, AppConfig
from metacore.capabilities.access import Access, Mode
from metacore.capabilities.enforcer import Enforcer, Violation
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.tally import NO_ORGANIZATION, Tally
from metacore.capabilities.violations import ViolationFilter, list_violations, sum_violations
from metacore.capabilities.writer import ViolationWriter, purge_violations
from metacore.db.database import Database
from metacore.metrics import Metrics
from metacore.orm.tables import ViolationRow
from metacore.registry import Registry
from metacore_operator.housekeeping import Housekeeping

ACME = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
GLOBEX = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")
NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def violation(
    target: str = "addon_crm.contacts",
    *,
    addon: str = "shop",
    organization: uuid.UUID | None = ACME,
    at: datetime.datetime = NOON,
    mode: Mode = Mode.SHADOW,
    caller: str = "tester",
    kind: str = "db:read",
    forbidden: bool = False,
) -> Violation:
    return Violation(Access(addon, kind, target, organization, caller), mode, at.timestamp(), forbidden)


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue("kernel_db" if request.param == "postgresql" else "sqlite_db")
    return found


@pytest.fixture
async def broken_table(owner_db: Database) -> AsyncIterator[Database]:
    """A database that takes no violations until the table has its name back."""
    await owner_db.postgres.execute("ALTER TABLE metacore_violations RENAME TO elsewhere")
    yield owner_db


async def everything(database: Database) -> list[Any]:
    async with database.transaction(None) as connection:
        return list(await connection.execute(sa.select(ViolationRow).order_by(*ViolationRow.__table__.primary_key)))


async def listed(database: Database, organization: uuid.UUID, **wanted: Any) -> list[Any]:
    since = wanted.pop("since", NOON - datetime.timedelta(hours=24))
    found, total = await list_violations(database, organization, ViolationFilter(since, **wanted), page=1, per_page=100)
    assert total == len(found)
    return list(found)


async def test_equal_violations_of_an_hour_are_one_row_however_often_it_is_written(database: Database) -> None:
    recorder = ViolationRecorder()
    writer = ViolationWriter(database, recorder)
    minute = datetime.timedelta(minutes=1)
    for number in (5, 1, 9):
        recorder.record(violation(at=NOON + number * minute))
        assert await writer.flush()
    recorder.record(violation(at=NOON + 61 * minute))
    recorder.record(violation(at=NOON, mode=Mode.ENFORCE))
    recorder.record(violation(at=NOON, forbidden=True))
    assert await writer.flush()
    rows = await listed(database, ACME, mode="shadow", forbidden=False)
    assert [(row.count, row.first_at, row.last_at) for row in rows] == [(4, NOON + minute, NOON + 61 * minute)]
    assert [row.count for row in await listed(database, ACME, mode="enforce")] == [1]
    assert [row.mode for row in await listed(database, ACME, forbidden=True)] == ["shadow"]


async def test_two_processes_add_up(database_urls: DatabaseUrls, owner_db: Database) -> None:
    databases = [await Database.connect(database_urls.kernel, pool_size=2) for _ in range(3)]
    recorders = [ViolationRecorder() for _ in databases]
    for recorder in recorders:
        for number in range(200):
            recorder.record(violation(f"addon_crm.t{number}"))
    writers = [ViolationWriter(database, recorder) for database, recorder in zip(databases, recorders, strict=True)]
    assert all(await asyncio.gather(*(writer.flush() for writer in writers)))
    rows = await everything(owner_db)
    assert len(rows) == 200 and {row[8] for row in rows} == {3}
    for database in databases:
        await database.close()


async def test_an_organization_sees_its_own_and_the_kernel_role_can_change_none(
    owner_db: Database, kernel_db: Database
) -> None:
    recorder = ViolationRecorder()
    for organization in (ACME, GLOBEX, None):
        recorder.record(violation(organization=organization))
    assert await ViolationWriter(kernel_db, recorder).flush()
    assert {row.organization_id for row in await everything(owner_db)} == {ACME, GLOBEX, NO_ORGANIZATION}
    assert await everything(kernel_db) == []
    assert [row.organization_id for row in await listed(kernel_db, ACME)] == [ACME]
    # Whatever the kernel asks for in the name of one organization, PostgreSQL shows that one's rows.
    async with kernel_db.transaction(GLOBEX) as connection:
        seen = (await connection.execute(sa.select(ViolationRow.organization_id))).scalars().all()
    assert seen == [GLOBEX]
    for statement in (
        "DELETE FROM metacore_violations",
        "UPDATE metacore_violations SET count = 0",
        "INSERT INTO metacore_violations SELECT * FROM metacore_violations",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await kernel_db.postgres.execute(statement)


async def test_what_no_tenant_did_shows_in_the_sum_and_to_no_tenant(owner_db: Database, kernel_db: Database) -> None:
    recorder = ViolationRecorder()
    for organization in (ACME, GLOBEX, None):
        for _ in range(3):
            recorder.record(violation(organization=organization))
    recorder.record(violation(mode=Mode.ENFORCE))
    recorder.record(violation("users.password_hash", forbidden=True))
    recorder.record(violation("api.example.com", addon="crm", kind="http:fetch"))
    assert await ViolationWriter(kernel_db, recorder).flush()
    sums = await sum_violations(owner_db, ViolationFilter(NOON - datetime.timedelta(hours=1)))
    assert [(item.addon_key, item.target, item.shadow, item.refused, item.organizations) for item in sums] == [
        ("crm", "api.example.com", 1, 0, 1),
        ("shop", "addon_crm.contacts", 9, 1, 2),
        ("shop", "users.password_hash", 1, 0, 1),
    ]
    assert sums[2].as_json()["refused"] == 1 and sums[2].as_json()["allowed"] == 0
    assert await sum_violations(owner_db, ViolationFilter(NOON + datetime.timedelta(hours=2))) == []


async def test_an_id_that_was_read_from_the_database_is_as_good_as_any(owner_db: Database, kernel_db: Database) -> None:
    organization = await kernel_db.postgres.fetchval("SELECT $1::uuid", ACME)
    assert type(organization) is not uuid.UUID
    recorder = ViolationRecorder()
    recorder.record(violation(organization=organization))
    recorder.record(violation(organization=ACME))
    assert await ViolationWriter(kernel_db, recorder).flush()
    assert [row.count for row in await listed(kernel_db, ACME)] == [2]


async def test_text_that_no_column_takes_is_written_anyway(database: Database) -> None:
    recorder = ViolationRecorder()
    recorder.record(violation("a\x00b\ud800" + "ü" * 500, addon="k" * 99, kind="x" * 99, caller="\n" * 500))
    assert await ViolationWriter(database, recorder).flush()
    (row,) = await listed(database, ACME)
    assert row.target.startswith("a�b�ü") and len(row.target) == 255


async def test_nothing_is_lost_while_the_database_is_away(
    broken_table: Database, kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(process=False)
    recorder = ViolationRecorder(metrics, Tally(most_keys=2))
    writer = ViolationWriter(kernel_db, recorder)
    for target in ("addon_crm.a", "addon_crm.a", "addon_crm.b", "addon_crm.c"):
        recorder.record(violation(target))
    for _ in range(3):
        assert not await writer.flush()
    assert caplog.text.count("enforcer.violations_not_written") == 1
    recorder.record(violation("addon_crm.a"))
    await broken_table.postgres.execute("ALTER TABLE elsewhere RENAME TO metacore_violations")
    assert await writer.flush()
    assert {row.target: row.count for row in await listed(kernel_db, ACME)} == {"addon_crm.a": 3, "addon_crm.b": 1}
    assert b"metacore_capability_violations_dropped_total 1.0" in metrics.render()


async def test_stopping_writes_the_rest_and_counts_what_it_had_to_leave(
    owner_db: Database, kernel_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(process=False)
    recorder = ViolationRecorder(metrics)
    writer = ViolationWriter(kernel_db, recorder, interval=3600)
    await writer.start()
    recorder.record(violation())
    await writer.stop()
    await writer.stop()
    assert [row.count for row in await listed(kernel_db, ACME)] == [1]
    await writer.start()
    await owner_db.postgres.execute("ALTER TABLE metacore_violations RENAME TO elsewhere")
    recorder.record(violation())
    recorder.record(violation())
    await writer.stop()
    assert "enforcer.violations_lost" in caplog.text
    assert b"metacore_capability_violations_dropped_total 2.0" in metrics.render()


async def test_a_kernel_that_stops_has_written_what_its_addons_did_last(
    database_urls: DatabaseUrls, owner_db: Database
) -> None:
    app = App(AppConfig(database=database_urls.kernel, jwt_secret="x" * 40, run_migrations=None, create_tables=False))
    heard: list[Violation] = []
    app.violations.on_violation(heard.append)
    async with app:
        app.enforcer.decide(Access("nobody", "db:read", "addon_crm.contacts", ACME, "late"))
    (row,) = await everything(owner_db)
    assert (row.addon_key, row.caller, row.mode) == ("nobody", "late", "shadow")
    assert [item.access.caller for item in heard] == ["late"]


async def test_deciding_never_waits_for_a_table_that_somebody_holds(owner_db: Database, kernel_db: Database) -> None:
    recorder = ViolationRecorder()
    enforcer = Enforcer(Registry(), recorder)
    writer = ViolationWriter(kernel_db, recorder, interval=0.01)
    async with owner_db.postgres.acquire() as holder, holder.transaction():
        await holder.execute("LOCK TABLE metacore_violations IN ACCESS EXCLUSIVE MODE")
        flushing = asyncio.create_task(writer.flush())
        for number in range(100):
            # The flush is somewhere in its trip; each of these is one step of the loop.
            assert enforcer.decide(Access("shop", "db:read", f"addon_crm.t{number}", ACME)).allowed
            await asyncio.sleep(0)
        blocked = asyncio.create_task(writer.flush())
        done, _ = await asyncio.wait([blocked], timeout=0.2)
        assert not done
        assert enforcer.decide(Access("shop", "db:read", "addon_crm.t0", ACME)).allowed
    assert await flushing and await blocked and await writer.flush()
    counts = {row.target: row.count for row in await everything(owner_db)}
    assert len(counts) == 100 and counts["addon_crm.t0"] == 2


async def test_the_task_writes_by_itself(kernel_db: Database) -> None:
    recorder = ViolationRecorder()
    writer = ViolationWriter(kernel_db, recorder, interval=0.01)
    await writer.start()
    recorder.record(violation())
    async with asyncio.timeout(30):
        while True:
            async with kernel_db.transaction(ACME) as connection:
                if await connection.scalar(sa.select(ViolationRow.count)) == 1:
                    break
            await asyncio.sleep(0.01)
    await writer.stop()


async def test_housekeeping_forgets_violations_after_a_month_and_no_others(
    owner_db: Database, kernel_db: Database
) -> None:
    recorder = ViolationRecorder()
    for days, target in ((0, "addon_crm.today"), (29, "addon_crm.recent"), (31, "addon_crm.old")):
        recorder.record(violation(target, at=NOON - datetime.timedelta(days=days)))
    assert await ViolationWriter(kernel_db, recorder).flush()
    stop = asyncio.Event()

    def now() -> datetime.datetime:
        stop.set()
        return NOON

    await Housekeeping(owner_db, now=now).run(stop)
    assert {row[4] for row in await everything(owner_db)} == {"addon_crm.today", "addon_crm.recent"}
    assert await purge_violations(owner_db, now=NOON + datetime.timedelta(days=300)) == 2


async def test_pages_are_in_order_and_disjoint(database: Database) -> None:
    recorder = ViolationRecorder()
    for number in range(25):
        recorder.record(violation(f"addon_crm.t{number:02}", at=NOON + datetime.timedelta(minutes=number)))
    assert await ViolationWriter(database, recorder).flush()
    seen: list[str] = []
    for page in (1, 2, 3, 4):
        found, total = await list_violations(
            database, ACME, ViolationFilter(NOON - datetime.timedelta(days=1)), page=page, per_page=10
        )
        assert total == 25
        seen += [row.target for row in found]
    assert seen == [f"addon_crm.t{number:02}" for number in reversed(range(25))]
