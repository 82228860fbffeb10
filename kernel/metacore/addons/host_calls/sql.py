"""`db_query` and `db_exec`: handed to the room that judges and runs guest SQL."""

from __future__ import annotations

from typing import Any

from metacore.addons.guest_context import GuestCall
from metacore.addons.host_calls.parts import Answer
from metacore.guest_sql.execute import GuestSql


class GuestSqlCalls:
    def __init__(self, sql: GuestSql) -> None:
        self._sql = sql

    async def db_query(self, guest: GuestCall, sql: str, args: list[Any]) -> Answer:
        return await self._sql.query(guest, sql, args)

    async def db_exec(self, guest: GuestCall, sql: str, args: list[Any]) -> Answer:
        return await self._sql.execute(guest, sql, args)
