"""Both stores, one contract: in memory, and in the database on PostgreSQL as the kernel's role and on SQLite."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest
from tests.factories import make_organization, make_user, principal

from metacore.db.database import Database
from metacore.errors import InvalidInput, NotFound
from metacore.permissions.database_store import DatabasePermissionStore
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore, WritablePermissionStore


@dataclass
class Case:
    store: WritablePermissionStore
    organization: uuid.UUID
    user: uuid.UUID
    other: uuid.UUID


@pytest.fixture(params=["memory", "postgresql", "sqlite"])
def database(request: pytest.FixtureRequest) -> tuple[Database, Database] | None:
    if request.param == "memory":
        return None
    if request.param == "sqlite":
        return (request.getfixturevalue("sqlite_db"),) * 2
    return request.getfixturevalue("owner_db"), request.getfixturevalue("kernel_db")


@pytest.fixture
async def case(database: tuple[Database, Database] | None) -> Case:
    if database is None:
        return Case(MemoryPermissionStore(), uuid.uuid4(), uuid.uuid4(), uuid.uuid4())
    owner, kernel = database
    organization, other = await make_organization(owner), await make_organization(owner, "Other")
    user = await make_user(owner, organization, role="agent")
    return Case(DatabasePermissionStore(kernel), organization, user, other)


async def test_what_is_granted_is_held_until_it_is_revoked(case: Case) -> None:
    store, organization, user = case.store, case.organization, case.user
    assert await store.grant_role(organization, "agent", "Tickets.read")
    assert await store.grant_user(organization, user, "tickets.close")
    assert set(await store.grants(organization, user, "agent")) == {"tickets.read", "tickets.close"}
    assert await store.role_grants(organization) == {"agent": {"tickets.read"}}
    assert await store.user_grants(organization, user) == {"tickets.close"}
    assert await store.revoke_role(organization, "agent", "TICKETS.read")
    assert await store.revoke_user(organization, user, "TICKETS.close")
    assert set(await store.grants(organization, user, "agent")) == set()
    assert await store.role_grants(organization) == {}


async def test_granting_twice_and_revoking_nothing_change_nothing(case: Case) -> None:
    told: list[uuid.UUID | None] = []
    case.store.on_change(told.append)
    assert await case.store.grant_role(case.organization, "agent", "tickets.read")
    assert not await case.store.grant_role(case.organization, "agent", "tickets.read")
    assert not await case.store.revoke_role(case.organization, "agent", "tickets.delete")
    assert not await case.store.revoke_user(case.organization, case.user, "tickets.read")
    assert told == [case.organization]


async def test_grants_belong_to_one_organization(case: Case) -> None:
    await case.store.grant_role(case.organization, "agent", "tickets.read")
    await case.store.grant_user(case.organization, case.user, "tickets.close")
    assert not await case.store.grants(case.other, case.user, "agent")
    assert not await case.store.revoke_role(case.other, "agent", "tickets.read")
    assert not await case.store.revoke_user(case.other, case.user, "tickets.close")
    assert len(await case.store.grants(case.organization, case.user, "agent")) == 2


async def test_grants_belong_to_one_role_and_one_user(case: Case) -> None:
    await case.store.grant_role(case.organization, "agent", "tickets.read")
    await case.store.grant_user(case.organization, case.user, "tickets.close")
    assert set(await case.store.grants(case.organization, case.user, "admin")) == {"tickets.close"}
    assert set(await case.store.grants(case.organization, uuid.uuid4(), "agent")) == {"tickets.read"}


@pytest.mark.parametrize("capability", ["", "tickets", "tick ets.read", "x" * 200])
async def test_what_is_malformed_is_refused_before_it_is_stored(case: Case, capability: str) -> None:
    with pytest.raises(InvalidInput):
        await case.store.grant_role(case.organization, "agent", capability)
    with pytest.raises(InvalidInput):
        await case.store.grant_user(case.organization, case.user, capability)
    assert await case.store.role_grants(case.organization) == {}


async def test_the_service_sees_a_change_of_its_store_at_once(case: Case) -> None:
    service = PermissionService(case.store)
    agent = principal(case.organization, case.user, role="agent")
    assert not await service.check(agent, "tickets.read")
    await case.store.grant_role(case.organization, "agent", "tickets.*")
    assert await service.check(agent, "tickets.read")
    await case.store.revoke_role(case.organization, "agent", "tickets.*")
    assert not await service.check(agent, "tickets.read")


async def test_a_user_of_another_organization_cannot_be_granted_anything(
    case: Case, database: tuple[Database, Database] | None
) -> None:
    if database is None:
        # The store in memory knows no users; the routes ask for the user first.
        assert await case.store.grant_user(case.other, case.user, "tickets.read")
        assert not await case.store.grants(case.organization, case.user, "agent")
        return
    with pytest.raises(NotFound):
        await case.store.grant_user(case.other, case.user, "tickets.read")
    with pytest.raises(NotFound):
        await case.store.grant_user(case.organization, uuid.uuid4(), "tickets.read")
