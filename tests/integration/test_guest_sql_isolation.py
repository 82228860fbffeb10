"""Guests reach their own tables and what was granted: in both modes, in both isolations, with the real roles."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.guest_world import GuestWorld, guest_world
from tests.hostile_guest_sql import HARMLESS_CHANGES, HARMLESS_QUERIES, HOSTILE_CHANGES, HOSTILE_QUERIES

from metacore.capabilities.access import Decision, Mode
from metacore.db.database import Database
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostReply

ALLOWED = Decision(allowed=True, granted=True, mode=Mode.ENFORCE)
REFUSALS = {
    HostCode.INVALID_SQL,
    HostCode.FORBIDDEN,
    HostCode.MISSING_ORG_FILTER,
    HostCode.PAYLOAD_TOO_LARGE,
    HostCode.ARG_COUNT_MISMATCH,
}
RENAMED = ", ".join(f"c{number}" for number in range(1, 12))
EVERYTHING_OF_OTHERS = ("read addon_orders.*", "write addon_orders.*", "read addon_cellar.*", "write addon_cellar.*")


@pytest.fixture(params=["shared", "tenants"])
async def world(request: pytest.FixtureRequest, owner_db: Database, kernel_db: Database) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=request.param == "tenants") as made:
        yield made


@pytest.fixture
async def shared(owner_db: Database, kernel_db: Database) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=False) as made:
        yield made


async def test_hostile_queries_are_refused_in_both_modes_whatever_was_granted_on_others(shared: GuestWorld) -> None:
    for mode in ("shadow", "enforce", "enforce with grants"):
        if mode == "enforce":
            shared.enforce()
        if mode == "enforce with grants":
            await shared.grant(*EVERYTHING_OF_OTHERS)
        for what, (sql, word) in HOSTILE_QUERIES.items():
            refusal = await shared.refused(sql)
            assert refusal.code in REFUSALS, (mode, what, refusal)
            assert word in refusal.message, (mode, what, refusal)


async def test_hostile_changes_are_refused_in_both_modes_and_leave_the_transaction_usable(shared: GuestWorld) -> None:
    for mode in ("shadow", "enforce"):
        if mode == "enforce":
            shared.enforce()
            await shared.grant(*EVERYTHING_OF_OTHERS)
        for what, (sql, word) in HOSTILE_CHANGES.items():
            async with shared.transaction() as transaction:
                reply = await shared.sql.execute(shared.call(transaction), sql, [])
                assert not isinstance(reply, HostReply), (mode, what)
                assert reply.code in REFUSALS, (mode, what, reply)
                assert word in reply.message, (mode, what, reply)
                assert not transaction.failed, what
                after = await shared.sql.execute(shared.call(transaction), "UPDATE notes SET rank = 1", [])
                assert isinstance(after, HostReply), (what, after)


@pytest.mark.parametrize("hostile", ["'; DROP TABLE notes; --", "\\'; DELETE FROM notes", "$1", ") OR 1=1 --", "{}"])
async def test_what_stands_in_an_argument_is_a_value_and_nothing_else(shared: GuestWorld, hostile: str) -> None:
    places = (
        "SELECT $1::text AS v",
        "SELECT v FROM (SELECT $1::varchar AS v) x WHERE v = $1",
        "SELECT concat($1::text) AS v FROM notes LIMIT 1",
        "SELECT jsonb_build_object('v', $1::text) ->> 'v' AS v",
        "WITH x AS (SELECT $1::text AS v) SELECT v FROM x",
    )
    for sql in places:
        assert await shared.rows(sql, hostile) == [{"v": hostile}]
    changed = await shared.changed(
        "INSERT INTO notes (organization_id, title) VALUES ($1, $2) RETURNING title",
        {"$uuid": str(shared.acme)},
        hostile,
    )
    assert changed["returning"] == [{"title": hostile}]
    assert len(await shared.rows("SELECT title FROM notes")) == 2


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
async def test_harmless_sql_runs_without_any_grant(world: GuestWorld, mode: str) -> None:
    if mode == "enforce":
        world.enforce()
    for what, sql in HARMLESS_QUERIES.items():
        reply = await world.query(sql)
        assert isinstance(reply, HostReply), (what, reply)
    for what, sql in HARMLESS_CHANGES.items():
        reply = await world.execute(sql.format(org=world.acme))
        assert isinstance(reply, HostReply), (what, reply)
    assert world.recorded.violations == []


async def test_no_tenant_sees_or_changes_the_rows_of_another(world: GuestWorld) -> None:
    await world.grant(*EVERYTHING_OF_OTHERS, "read users")
    for sql, mine in (
        ("SELECT title AS v FROM notes", "note"),
        ("SELECT login AS v FROM accounts", "login"),
        ("SELECT number AS v FROM addon_orders.invoices", "invoice"),
        ("SELECT label AS v FROM addon_cellar.barrels", "barrel"),
    ):
        assert await world.rows(sql) == [{"v": f"acme {mine}"}]
        assert await world.rows(sql, organization=world.globex) == [{"v": f"globex {mine}"}]
    assert await world.rows("SELECT name FROM users", organization=world.globex) == [{"name": "gus"}]
    assert (await world.changed("UPDATE notes SET title = 'mine'"))["rowsAffected"] == 1
    assert (await world.changed("DELETE FROM addon_orders.invoices"))["rowsAffected"] == 1
    assert (await world.changed("DELETE FROM addon_cellar.barrels"))["rowsAffected"] == 1
    assert await world.rows("SELECT title AS v FROM notes", organization=world.globex) == [{"v": "globex note"}]
    assert len(await world.rows("SELECT 1 FROM addon_orders.invoices", organization=world.globex)) == 1
    assert len(await world.rows("SELECT 1 FROM addon_cellar.barrels", organization=world.globex)) == 1


async def test_another_organization_in_an_argument_is_refused_in_a_change_and_finds_nothing_in_a_query(
    world: GuestWorld,
) -> None:
    other = {"$uuid": str(world.globex)}
    for sql in ("DELETE FROM notes WHERE organization_id = $1", "UPDATE notes SET rank = 1 WHERE $1 = organization_id"):
        assert (await world.not_changed(sql, other)).code == HostCode.MISSING_ORG_FILTER
        assert (await world.not_changed(sql, str(world.globex))).code == HostCode.MISSING_ORG_FILTER
        assert (await world.changed(sql, {"$uuid": str(world.acme)}))["rowsAffected"] <= 1
    refusal = await world.not_changed("INSERT INTO notes (organization_id) VALUES ($1)", other)
    assert refusal.code == HostCode.MISSING_ORG_FILTER
    assert await world.rows("SELECT 1 FROM notes WHERE organization_id = $1", other) == []
    assert len(await world.rows("SELECT 1 FROM notes", organization=world.globex)) == 1


async def test_the_schema_of_another_tenant_is_nobodys(owner_db: Database, kernel_db: Database) -> None:
    async with guest_world(owner_db, kernel_db, tenants=True) as world:
        theirs = world.schema_of(world.globex)
        for sql in (f"SELECT * FROM {theirs}.notes", f"SELECT * FROM addon_cellar_{world.globex.hex[:8]}.barrels"):
            assert (await world.refused(sql)).code == HostCode.FORBIDDEN
        # The physical name of one's own schema is as good as the logical one, and is remembered for nobody else.
        mine = f"SELECT title FROM {world.schema}.notes"
        assert await world.rows(mine) == [{"title": "acme note"}]
        assert (await world.refused(mine, organization=world.globex)).code == HostCode.FORBIDDEN


async def test_shadow_records_what_enforce_refuses(world: GuestWorld) -> None:
    statements = (
        ("SELECT number FROM addon_orders.invoices", ["db:read addon_orders.invoices"]),
        ("SELECT n.title FROM notes n JOIN addon_cellar.barrels b ON true", ["db:read addon_cellar.barrels"]),
        (
            "SELECT 1 FROM addon_orders.invoices, addon_orders.payments",
            ["db:read addon_orders.invoices", "db:read addon_orders.payments"],
        ),
    )
    for sql, targets in statements:
        world.recorded.violations.clear()
        await world.rows(sql)
        assert world.recorded.targets == targets
        assert all(not found.forbidden and found.access.caller == "a test" for found in world.recorded.violations)
    world.recorded.violations.clear()
    await world.changed("UPDATE addon_orders.invoices SET total = p.amount FROM addon_orders.payments p")
    assert world.recorded.targets == ["db:write addon_orders.invoices", "db:read addon_orders.payments"]
    world.enforce()
    for sql, targets in statements:
        refusal = await world.refused(sql)
        assert refusal.code == HostCode.FORBIDDEN
        assert targets[0].split(" ")[1] in refusal.message
    assert (await world.not_changed("DELETE FROM addon_orders.invoices")).code == HostCode.FORBIDDEN


async def test_enforce_gives_exactly_what_was_granted(world: GuestWorld) -> None:
    world.enforce()
    await world.grant("read addon_orders.invoices", "write addon_cellar.*")
    assert await world.rows("SELECT number FROM addon_orders.invoices") == [{"number": "acme invoice"}]
    assert "payments" in (await world.refused("SELECT 1 FROM addon_orders.payments")).message
    assert "db:write" in (await world.not_changed("DELETE FROM addon_orders.invoices")).message
    assert "db:read" in (await world.refused("SELECT 1 FROM addon_cellar.barrels")).message
    changed = await world.changed("UPDATE addon_cellar.barrels SET label = 'full' RETURNING label")
    assert changed["returning"] == [{"label": "full"}]
    assert world.recorded.targets == [
        "db:read addon_orders.payments",
        "db:write addon_orders.invoices",
        "db:read addon_cellar.barrels",
    ]
    # What is taken back is refused at the next call, by the decision and by the role beneath it.
    await world.grant()
    assert (await world.refused("SELECT number FROM addon_orders.invoices")).code == HostCode.FORBIDDEN


async def test_the_role_beneath_refuses_what_the_decision_would_let_through(world: GuestWorld) -> None:
    """The enforcer is made to say yes to everything; what was not granted still does not run."""
    world.enforce()
    world.enforcer.decide = world.enforcer.require = lambda access: ALLOWED  # type: ignore[method-assign]
    world.enforcer.covers = lambda access: True  # type: ignore[method-assign]
    for sql in (
        "SELECT 1 FROM addon_orders.invoices",
        "SELECT 1 FROM addon_cellar.barrels",
        "SELECT email FROM public.users",
    ):
        refusal = await world.refused(sql)
        assert (refusal.code, refusal.sqlstate) == (HostCode.FORBIDDEN, "42501"), sql
    refusal = await world.not_changed("DELETE FROM addon_orders.invoices")
    assert (refusal.code, refusal.sqlstate) == (HostCode.FORBIDDEN, "42501")


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
async def test_users_need_a_grant_in_both_modes_and_never_show_a_hash(world: GuestWorld, mode: str) -> None:
    if mode == "enforce":
        world.enforce()
    refusal = await world.refused("SELECT email FROM users")
    assert refusal.code == HostCode.FORBIDDEN
    assert [(found.access.target, found.forbidden) for found in world.recorded.violations] == [("users", True)]
    await world.grant("read public.users")
    assert await world.rows("SELECT email, name FROM users") == [{"email": "ada@example.com", "name": "ada"}]
    assert await world.rows("SELECT u.email FROM public.users u WHERE u.role = 'owner'") == [
        {"email": "ada@example.com"}
    ]
    for sql in (
        "SELECT password_hash FROM users",
        "SELECT u.password_hash FROM public.users AS u",
        "SELECT * FROM users",
        "SELECT u.* FROM notes n, users u",
        "SELECT users FROM users",
        "SELECT to_jsonb(u) FROM users u",
        "SELECT u::text FROM users u",
        f"SELECT x.c{await place_of(world, 'password_hash')} FROM users x({RENAMED})",
        f"SELECT x.c{await place_of(world, 'token_epoch')} FROM users x({RENAMED})",
        "SELECT email FROM users WHERE password_hash LIKE '$argon2id$%'",
        "SELECT email FROM users ORDER BY password_hash",
        "SELECT count(DISTINCT password_hash) FROM users",
        "SELECT token_epoch FROM users",
        "SELECT (SELECT password_hash FROM users LIMIT 1)",
        "WITH x AS (SELECT * FROM users) SELECT email FROM x",
        "SELECT email FROM users NATURAL JOIN (SELECT ''::varchar AS password_hash) x",
        "TABLE users",
    ):
        refusal = await world.refused(sql)
        assert refusal.code == HostCode.FORBIDDEN, (sql, refusal)
        assert "users" in refusal.message, (sql, refusal)
    refusal = await world.not_changed("UPDATE notes SET title = u.password_hash FROM users u")
    assert (refusal.code, "users" in refusal.message) == (HostCode.FORBIDDEN, True)
    assert (await world.not_changed("UPDATE users SET name = 'x'")).code == HostCode.FORBIDDEN
    changed = await world.changed("UPDATE notes SET title = u.name FROM users u RETURNING title")
    assert changed["returning"] == [{"title": "ada"}]
    await world.grant()
    assert (await world.refused("SELECT email FROM users")).code == HostCode.FORBIDDEN


async def place_of(world: GuestWorld, column: str) -> int:
    """Which column of `users` it is, from 1."""
    query = "SELECT attnum FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = $1"
    return int(await world.owner.postgres.fetchval(query, column))


async def test_a_grant_on_another_table_of_the_kernel_grants_nothing(world: GuestWorld) -> None:
    await world.grant("read organizations", "read public.*", "read metacore_installations", "write users")
    for sql in ("SELECT name FROM organizations", "SELECT email FROM users", "TABLE metacore_installations"):
        assert (await world.refused(sql)).code == HostCode.FORBIDDEN
    assert (await world.not_changed("UPDATE users SET name = 'x'")).code == HostCode.FORBIDDEN
    assert all(found.forbidden for found in world.recorded.violations)


async def test_secret_columns_of_others_stay_hidden_in_shadow_and_under_a_grant(world: GuestWorld) -> None:
    for granted in (False, True):
        if granted:
            await world.grant("read addon_orders.safes", "write addon_orders.safes")
            world.enforce()
        assert await world.rows("SELECT label FROM addon_orders.safes") == [{"label": "acme safe"}]
        assert (await world.refused("SELECT max(pin) FROM addon_orders.safes")).code == HostCode.FORBIDDEN
        assert (await world.refused("SELECT s FROM addon_orders.safes s")).code == HostCode.FORBIDDEN
        assert (await world.not_changed("UPDATE addon_orders.safes SET pin = 'x'")).code == HostCode.FORBIDDEN
        assert (await world.changed("UPDATE addon_orders.safes SET label = label"))["rowsAffected"] == 1
    assert "db:read addon_orders.safes.pin" in world.recorded.targets


async def test_an_addon_that_is_fenced_or_gone_runs_nothing(world: GuestWorld) -> None:
    await world.installer.fence("notes", "untrusted")
    await world.loader.load()
    assert (await world.refused("SELECT 1")).code == HostCode.FORBIDDEN
    await world.installer.fence("notes", "")
    await world.loader.load()
    assert await world.rows("SELECT 1 AS v") == [{"v": 1}]
    await world.installer.remove("notes", drop=True)
    await world.loader.load()
    assert (await world.refused("SELECT 1")).code == HostCode.FORBIDDEN
