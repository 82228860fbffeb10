"""When guests' statements are judged: once, beside the event loop when they are long, and not without end. And that
what a statement set does not outlive it, even if the judge had let it through."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import text
from tests.conftest import DatabaseUrls
from tests.fixtures.sessions import session_leaks
from tests.guest_world import GuestWorld, guest_world

from metacore.addons.guest_context import GuestTransaction
from metacore.db.database import Database
from metacore.guest_sql import judging, sessions
from metacore.guest_sql.judge import judge
from metacore.guest_sql.judgement import Judgement
from metacore.guest_sql.sessions import Disguise
from metacore.ids import new_uuid
from metacore.installer.names import guest_role
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MAX_JUDGED_SQL, MAX_SQL_BYTES
from metacore.wasm.ports import HostError, HostReply

LONG = f"SELECT title FROM notes WHERE title <> '{'x' * 2_000}'"


@pytest.fixture
async def world(owner_db: Database, kernel_db: Database) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=False) as made:
        yield made


class Watched:
    """The real judge, with a look at who runs it and a gate before it."""

    def __init__(self, before: Callable[[str], None] = lambda _sql: None) -> None:
        self.before = before
        self.threads: list[threading.Thread] = []

    def __call__(self, sql: str, *args: Any, **options: Any) -> Judgement:
        self.threads.append(threading.current_thread())
        self.before(sql)
        return judge(sql, *args, **options)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched()
    monkeypatch.setattr(judging, "judge", made)
    return made


def different(number: int, size: int) -> str:
    sql = f"SELECT {number} AS v, '"
    return f"{sql}{'x' * (size - len(sql) - 1)}'"


async def test_a_statement_that_is_known_is_not_judged_again(world: GuestWorld, watched: Watched) -> None:
    for sql in ("SELECT title FROM notes", LONG):
        for organization in (world.acme, world.globex, world.acme):
            await world.rows(sql, organization=organization)
    assert len(watched.threads) == 2


async def test_where_tenants_have_schemas_a_text_that_spells_one_is_known_too(
    owner_db: Database, kernel_db: Database, watched: Watched
) -> None:
    async with guest_world(owner_db, kernel_db, tenants=True) as world:
        sql = f"SELECT title FROM {world.schema}.notes"
        for _ in range(3):
            assert await world.rows(sql) == [{"title": "acme note"}]
        assert len(watched.threads) == 1
        # What is known of one organization's schema says nothing of another's.
        assert isinstance(await world.query(sql, organization=world.globex), HostError)


async def test_long_statements_are_judged_while_the_loop_serves_others(world: GuestWorld, watched: Watched) -> None:
    entered, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(sql: str) -> None:
        if len(sql) > judging.LONG:
            loop.call_soon_threadsafe(entered.set)
            assert leave.wait(20), "the loop did nothing meanwhile"

    watched.before = hold
    slow = asyncio.create_task(world.rows(LONG))
    await entered.wait()
    assert await world.rows("SELECT 1 AS v") == [{"v": 1}]
    assert not slow.done()
    leave.set()
    assert await slow == [{"title": "acme note"}]
    assert [thread is threading.main_thread() for thread in watched.threads] == [False, True]


async def test_who_waits_for_the_judge_has_no_more_time_than_the_guest(world: GuestWorld, watched: Watched) -> None:
    entered, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(_sql: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait(20)

    watched.before = hold
    slow = asyncio.create_task(world.rows(LONG))
    await entered.wait()
    late = await world.sql.query(world.call(seconds=0.05), LONG + " ", [])
    assert isinstance(late, HostError)
    assert late.code == HostCode.QUERY_TIMEOUT
    leave.set()
    assert await slow == [{"title": "acme note"}]
    assert await world.rows(LONG + " ") == [{"title": "acme note"}]


async def test_a_call_that_is_cancelled_does_not_keep_the_judge(world: GuestWorld, watched: Watched) -> None:
    entered, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(_sql: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait(20)

    watched.before = hold
    slow = asyncio.create_task(world.rows(LONG))
    await entered.wait()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    leave.set()
    assert await world.rows(LONG) == [{"title": "acme note"}]


async def test_an_invocation_may_have_so_much_judged_and_no_more(world: GuestWorld, watched: Watched) -> None:
    guest = world.call()
    texts = [different(number, MAX_SQL_BYTES) for number in range(MAX_JUDGED_SQL // MAX_SQL_BYTES + 1)]
    for sql in texts[:-1]:
        assert isinstance(await world.sql.query(guest, sql, []), HostReply)
    judged = len(watched.threads)
    for sql in (texts[-1], "SELECT 2"):
        refusal = await world.sql.query(guest, sql, [])
        assert isinstance(refusal, HostError)
        assert refusal.code == HostCode.PAYLOAD_TOO_LARGE
        assert "65536 characters" in refusal.message
        assert "arguments" in refusal.message
    assert len(watched.threads) == judged
    # What is known goes on, and another invocation has its own.
    assert isinstance(await world.sql.query(guest, texts[0], []), HostReply)
    assert isinstance(await world.query(texts[-1]), HostReply)
    assert isinstance(await world.sql.query(guest, texts[-1], []), HostReply)


async def test_what_is_refused_counts_each_time(world: GuestWorld) -> None:
    guest = world.call()
    hostile = f"SELECT pg_sleep(1), '{'x' * 16_000}'"
    codes = []
    for _ in range(6):
        refusal = await world.sql.query(guest, hostile, [])
        assert isinstance(refusal, HostError)
        codes.append(refusal.code)
    assert codes == [HostCode.FORBIDDEN] * 4 + [HostCode.PAYLOAD_TOO_LARGE] * 2


async def test_a_text_that_is_too_long_by_itself_says_so(world: GuestWorld) -> None:
    refusal = await world.refused(different(1, 5 * MAX_SQL_BYTES))
    assert refusal.code == HostCode.PAYLOAD_TOO_LARGE
    assert "16384 bytes" in refusal.message


# -- settings

SETS = (
    "SELECT set_config('app.current_org', '{other}', {local})",
    "SELECT set_config('search_path', 'pg_temp', {local}), set_config('app.current_org', '', {local})",
    "SELECT set_config('timezone', 'Asia/Tokyo', {local}), set_config('statement_timeout', '1', {local})",
    "SELECT set_config('role', 'none', {local})",
    "SELECT set_config('role', '{role}', {local})",
)
STATE = text(
    "SELECT current_user, current_setting('app.current_org'), current_setting('search_path'),"
    " current_setting('timezone'), current_setting('statement_timeout')"
)


@pytest.mark.parametrize("local", ["true", "false"])
@pytest.mark.parametrize("statement", SETS)
async def test_no_setting_of_a_statement_outlives_it(
    world: GuestWorld, database_urls: DatabaseUrls, statement: str, local: str
) -> None:
    role = guest_role(database_urls.name, "notes")
    narrow = await Database.connect(database_urls.kernel, pool_size=1)
    sql = statement.format(other=new_uuid(), local=local, role=role)
    disguise = Disguise(role, world.schema, world.acme, 5.0)
    try:
        async with narrow.transaction(world.acme) as connection:
            before = (await connection.execute(STATE)).one()
            transaction = GuestTransaction(connection)
            async with sessions.writing(transaction, disguise) as change:
                await change.connection.execute(sql)
            assert (await connection.execute(STATE)).one() == before
            async with sessions.reading_inside(transaction, disguise) as inside:
                await inside.execute(sql)
            assert (await connection.execute(STATE)).one() == before
        async with sessions.reading(narrow.postgres, disguise) as alone:
            await alone.execute(sql)
        assert await session_leaks(narrow) == []
    finally:
        await narrow.close()
