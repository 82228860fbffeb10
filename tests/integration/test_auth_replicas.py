"""Two kernel processes on one database: what one changes, the other knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.accounts import CONFIG
from tests.factories import PASSWORD, principal

from metacore.auth.accounts import LoginResult
from metacore.auth.service import AuthService
from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import Unauthenticated
from metacore.ids import UserId
from metacore.permissions.database_store import DatabasePermissionStore
from metacore.permissions.service import PermissionService

PATIENCE = 20


@dataclass
class Replica:
    """One process: its services, its own listener, and a queue of the users whose tokens it dropped."""

    auth: AuthService
    permissions: PermissionService
    store: DatabasePermissionStore
    dropped: asyncio.Queue[UserId | None] = field(default_factory=asyncio.Queue)


@asynccontextmanager
async def replica(db: Database, *, listening: bool = True) -> AsyncIterator[Replica]:
    listener = Listener(db.direct_url) if listening else None
    store = DatabasePermissionStore(db)
    made = Replica(AuthService(db, CONFIG, listener), PermissionService(store, listener=listener), store)
    made.auth.on_invalidate(made.dropped.put_nowait)
    if listener is not None:
        await listener.start()
    try:
        yield made
    finally:
        if listener is not None:
            await listener.stop()
        made.auth.close()


async def epoch(db: Database, channel: str) -> int:
    value = await db.postgres.fetchval("SELECT value FROM metacore_epochs WHERE name = $1", channels.EPOCHS[channel])
    return int(value)


async def grace_in(one: Replica) -> LoginResult:
    ada = await one.auth.register("Ada", "ada@example.com", PASSWORD)
    await one.auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "admin")
    return await one.auth.login("grace@example.com", PASSWORD)


async def dropped(one: Replica, user_id: UserId) -> None:
    while await asyncio.wait_for(one.dropped.get(), PATIENCE) != user_id:
        pass


@pytest.mark.parametrize("change", ["logout", "demote", "disable", "password", "reuse"])
async def test_what_ends_tokens_in_one_process_ends_them_in_the_other(kernel_db: Database, change: str) -> None:
    async with replica(kernel_db) as here, replica(kernel_db) as there:
        grace = await grace_in(here)
        organization, user = grace.organization.id, grace.user.id
        caller = await there.auth.authenticate(grace.token)
        assert there.auth.authenticate_cached(grace.token) is not None
        if change == "logout":
            await here.auth.logout(caller)
        elif change == "demote":
            await here.auth.set_role(organization, user, "agent")
        elif change == "disable":
            await here.auth.set_status(organization, user, "disabled")
        elif change == "password":
            await here.auth.set_password(organization, user, "another long password")
        else:
            await here.auth.refresh(grace.refresh_token)
            with pytest.raises(Unauthenticated):
                await here.auth.refresh(grace.refresh_token)
        await dropped(there, user)
        for one in (here, there):
            assert one.auth.authenticate_cached(grace.token) is None
            with pytest.raises(Unauthenticated):
                await one.auth.authenticate(grace.token)


async def test_a_process_that_hears_nothing_learns_it_from_the_counter(kernel_db: Database) -> None:
    async with replica(kernel_db) as here, replica(kernel_db, listening=False) as deaf:
        grace = await grace_in(here)
        deaf.auth.refresh_epoch(await epoch(kernel_db, channels.AUTH))
        caller = await deaf.auth.authenticate(grace.token)
        deaf.auth.refresh_epoch(await epoch(kernel_db, channels.AUTH))
        assert deaf.auth.authenticate_cached(grace.token) is not None
        await here.auth.logout(caller)
        deaf.auth.refresh_epoch(await epoch(kernel_db, channels.AUTH))
        with pytest.raises(Unauthenticated):
            await deaf.auth.authenticate(grace.token)


async def test_a_heartbeat_after_heard_changes_drops_nothing_more(kernel_db: Database) -> None:
    async with replica(kernel_db) as here, replica(kernel_db) as there:
        ada = await here.auth.register("Ada", "ada@example.com", PASSWORD)
        grace = await here.auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "admin")
        for one in (here, there):
            one.auth.refresh_epoch(await epoch(kernel_db, channels.AUTH))
            await one.auth.authenticate(ada.token)
        await here.auth.set_role(ada.organization.id, grace.id, "agent")
        await dropped(there, grace.id)
        # The first is the change made here, the second its own notification.
        await dropped(here, grace.id)
        await dropped(here, grace.id)
        for one in (here, there):
            one.auth.refresh_epoch(await epoch(kernel_db, channels.AUTH))
            assert one.auth.authenticate_cached(ada.token) is not None


async def test_a_lost_connection_drops_everything(kernel_db: Database, owner_db: Database) -> None:
    async with replica(kernel_db) as one:
        ada = await one.auth.register("Ada", "ada@example.com", PASSWORD)
        await one.auth.authenticate(ada.token)
        await kernel_db.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'metacore-listen' AND datname = current_database()"
        )
        assert await asyncio.wait_for(one.dropped.get(), PATIENCE) is None
        assert one.auth.authenticate_cached(ada.token) is None
        assert (await one.auth.authenticate(ada.token)).user_id == ada.user.id


async def test_a_grant_made_in_one_process_counts_in_the_other(kernel_db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Listener(kernel_db.direct_url)
    store = DatabasePermissionStore(kernel_db)
    there = PermissionService(store, listener=listener)
    listener.subscribe(channels.PERMISSIONS, heard.put_nowait)
    await listener.start()
    try:
        async with replica(kernel_db) as here:
            ada = await here.auth.register("Ada", "ada@example.com", PASSWORD)
            agent = principal(ada.organization.id, role="agent")
            assert not await there.check(agent, "tickets.read")
            await here.store.grant_role(ada.organization.id, "agent", "tickets.read")
            assert await asyncio.wait_for(heard.get(), PATIENCE) == str(ada.organization.id)
            assert there.check_cached(agent, "tickets.read") is None
            assert await there.check(agent, "tickets.read")
            assert await epoch(kernel_db, channels.PERMISSIONS) == 1
    finally:
        await listener.stop()


async def test_a_change_that_is_rolled_back_tells_nobody(kernel_db: Database) -> None:
    async with replica(kernel_db) as here:
        grace = await grace_in(here)
        before = await epoch(kernel_db, channels.AUTH)
        ada = await here.auth.login("ada@example.com", PASSWORD)
        with pytest.raises(Exception, match="last owner"):
            await here.auth.set_role(grace.organization.id, ada.user.id, "agent")
        assert await epoch(kernel_db, channels.AUTH) == before
