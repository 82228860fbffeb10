"""Which exceptions are the database's fault, and which are of code that had nothing to do with it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from metacore.db.faults import fault_of


def code_of(error: BaseException) -> str | None:
    fault = fault_of(error)
    return None if fault is None else fault.code


async def test_a_server_that_is_not_there_is_told_however_it_is_asked() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as driver:
            await asyncpg.connect(f"postgresql://nobody@127.0.0.1:{port}/none")
        engine = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none")
        with pytest.raises((OSError, sa.exc.DBAPIError)) as orm:
            async with engine.connect():
                pass
    assert code_of(driver.value) == code_of(orm.value) == "database_unreachable"


async def test_time_limits_and_sockets_of_other_code_are_not_the_database_s() -> None:
    with pytest.raises(TimeoutError) as own:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError) as refused:
            await asyncio.open_connection(*taken.getsockname())
    with pytest.raises(FileNotFoundError) as missing:
        Path("/nothing/there").stat()
    assert [code_of(each.value) for each in (own, refused, missing)] == [None, None, None]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncpg.CannotConnectNowError("starting"), "database_unreachable"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "database_unreachable"),
        (asyncpg.InterfaceError("connection is closed"), "database_unreachable"),
        (asyncpg.InterfaceError("pool is closing"), "database_unreachable"),
        (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), None),
        (asyncpg.QueryCanceledError("statement timeout"), "database_busy"),
        (sa.exc.TimeoutError("QueuePool limit"), "database_busy"),
        (asyncpg.UndefinedTableError("no such table"), None),
        (ValueError("of a route"), None),
    ],
)
def test_each_kind_has_its_code(error: Exception, code: str | None) -> None:
    assert code_of(error) == code


async def test_a_locked_sqlite_file_is_busy_and_a_wrong_statement_a_bug(tmp_path: Any) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/one.db"
    engine = create_async_engine(url, connect_args={"timeout": 0})
    async with engine.connect() as first, engine.connect() as second:
        await first.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(sa.exc.DBAPIError) as locked:
            await second.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(sa.exc.DBAPIError) as wrong:
            await first.exec_driver_sql("SELECT * FROM nothing")
    await engine.dispose()
    assert (code_of(locked.value), code_of(wrong.value)) == ("database_busy", None)
