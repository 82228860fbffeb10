"""Ended sessions are thrown away, live ones are not."""

from __future__ import annotations

import asyncio
import datetime

import sqlalchemy as sa
from tests.accounts import config

from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.orm.tables import AuthSession, RefreshToken
from metacore_operator.housekeeping import Housekeeping


async def test_what_has_ended_goes_and_what_lives_stays(owner_db: Database, kernel_db: Database) -> None:
    auth = AuthService(kernel_db, config(session_ttl=1_000, refresh_token_ttl=1_000))
    await auth.register("Ada", "ada@example.com", "correct horse battery", "Acme")

    async def left() -> tuple[int, int]:
        async with owner_db.transaction(None) as connection:
            sessions = await connection.scalar(sa.select(sa.func.count()).select_from(AuthSession))
            tokens = await connection.scalar(sa.select(sa.func.count()).select_from(RefreshToken))
        return sessions or 0, tokens or 0

    async def one_turn(later: datetime.timedelta) -> None:
        stop = asyncio.Event()

        def now() -> datetime.datetime:
            stop.set()
            return datetime.datetime.now(datetime.UTC) + later

        await Housekeeping(owner_db, now=now).run(stop)

    await one_turn(datetime.timedelta(seconds=500))
    assert await left() == (1, 1)
    await one_turn(datetime.timedelta(seconds=2_000))
    assert await left() == (0, 0)
    auth.close()


async def test_a_database_that_is_away_ends_nothing(owner_db: Database) -> None:
    nowhere = Database("postgresql://nobody:none@127.0.0.1:1/none")
    stop = asyncio.Event()
    keeping = asyncio.create_task(Housekeeping(nowhere, interval=0.01).run(stop))
    done, _ = await asyncio.wait([keeping], timeout=0.2)
    assert not done
    stop.set()
    await keeping
    await nowhere.close()
