"""Whatever a guest sends: what runs touched only what it may, and no reply ever holds a secret or another's row.

What a statement touches is not asked of the judge but of PostgreSQL itself: a function made of the very same text
depends on each relation and column that it names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from tests.conftest import DatabaseUrls
from tests.guest_statements import KERNEL, OTHERS, OWN, SECRET_VALUES, Statement, changes, queries
from tests.guest_world import GuestWorld, guest_world

from metacore.db.database import Database
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostError, HostReply

INVOICES, PAYMENTS, SAFES, USERS = (
    "addon_orders.invoices",
    "addon_orders.payments",
    "addon_orders.safes",
    "public.users",
)
MINE = frozenset({"addon_notes.notes", "addon_notes.accounts", "addon_notes.days", "addon_notes.good_days"})
SECRETS = frozenset(
    {
        "addon_notes.accounts.password",
        "addon_orders.safes.pin",
        "public.users.password_hash",
        "public.users.token_epoch",
    }
)
TOUCHED = """
SELECT n.nspname || '.' || c.relname || coalesce('.' || a.attname, '') AS name
FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid <> 0
WHERE d.classid = 'pg_proc'::regclass AND d.objid = 'public.touched'::regproc AND d.refclassid = 'pg_class'::regclass
"""
REFUSALS = {HostCode.INVALID_SQL, HostCode.FORBIDDEN, HostCode.MISSING_ORG_FILTER}
"""Codes that judge, decision and role refuse with; others come of running."""


@dataclass
class Arena:
    """A world in one configuration. `reads` and `writes` are what its guests may reach."""

    world: GuestWorld
    superuser: asyncpg.Connection[asyncpg.Record]
    reads: frozenset[str]
    writes: frozenset[str]
    ran: int = 0
    refused: dict[HostCode | str, int] = field(default_factory=dict)

    async def touched(self, sql: str) -> frozenset[str] | None:
        """Relations and columns that the statement names; None when PostgreSQL does not take it at all."""
        transaction = self.superuser.transaction()
        await transaction.start()
        try:
            await self.superuser.execute("SET LOCAL search_path TO addon_notes, public, pg_temp")
            await self.superuser.execute(f"CREATE FUNCTION public.touched() RETURNS void BEGIN ATOMIC {sql}; END")
            return frozenset(row["name"] for row in await self.superuser.fetch(TOUCHED))
        except asyncpg.PostgresError:
            return None
        finally:
            await transaction.rollback()

    async def check(self, statement: Statement, reply: HostReply | HostError) -> None:
        if isinstance(reply, HostError):
            self.refused[reply.code] = self.refused.get(reply.code, 0) + 1
            assert reply.message
            if reply.code == HostCode.FORBIDDEN:
                self.names_what_it_refuses(statement, reply)
            return
        self.ran += 1
        names = await self.touched(statement.sql)
        assert names is not None, statement.sql
        relations = {".".join(name.split(".")[:2]) for name in names}
        assert relations <= self.reads | self.writes, statement.sql
        assert not names & SECRETS, statement.sql
        if statement.target:
            target = statement.target if "." in statement.target else f"addon_notes.{statement.target}"
            assert target in self.writes, statement.sql
            assert relations - {target} <= self.reads, statement.sql
        answer = orjson.dumps(reply.data).decode()
        assert not [value for value in SECRET_VALUES if value in answer], statement.sql

    def names_what_it_refuses(self, statement: Statement, reply: HostError) -> None:
        """One of the names in the statement stands in the message."""
        words = [name.rpartition(".")[2] for name in (*OWN, *OTHERS, *KERNEL)]
        words += ["current_setting", "pg_read_file", "set_config", "metacore_login", "query_to_xml", "regclass"]
        words += ["pg_typeof", "CURRENT_USER", "public"]
        assert any(word in reply.message and word in statement.sql for word in words) or "public" in reply.message, (
            statement.sql,
            reply,
        )


@pytest.fixture(params=["shadow", "enforce", "granted"])
async def arena(
    request: pytest.FixtureRequest, owner_db: Database, kernel_db: Database, database_urls: DatabaseUrls
) -> AsyncIterator[Arena]:
    superuser = await asyncpg.connect(database_urls.superuser)
    try:
        async with guest_world(owner_db, kernel_db, tenants=False) as world:
            reads, writes = MINE, MINE
            if request.param == "shadow":
                reads = writes = MINE | {INVOICES, PAYMENTS, SAFES}
            else:
                world.enforce()
            if request.param == "granted":
                await world.grant(f"read {INVOICES}", f"write {PAYMENTS}", "read users")
                reads, writes = MINE | {INVOICES, USERS}, MINE | {PAYMENTS}
            made = Arena(world, superuser, reads, writes)
            yield made
            # Neither side may be empty, or the test would prove nothing.
            assert made.ran >= 30, (made.ran, made.refused)
            assert sum(count for code, count in made.refused.items() if code in REFUSALS) >= 30, made.refused
    finally:
        await superuser.close()


RANDOM = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@RANDOM
@given(statement=queries())
async def test_a_query_that_runs_read_only_what_was_granted(arena: Arena, statement: Statement) -> None:
    await arena.check(statement, await arena.world.query(statement.sql))


@RANDOM
@given(statement=changes())
async def test_a_change_that_runs_changed_only_what_was_granted(arena: Arena, statement: Statement) -> None:
    async with arena.world.transaction() as transaction:
        reply = await arena.world.sql.execute(arena.world.call(transaction), statement.sql, [])
        assert not transaction.failed
        await transaction.connection.rollback()
    await arena.check(statement, reply)
