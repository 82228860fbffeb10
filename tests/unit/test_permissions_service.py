"""The check: role grants plus user grants, cached, never stale after a change."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest
from tests.accounts import Clock
from tests.factories import principal

from metacore.errors import Conflict, InvalidInput, PermissionDenied
from metacore.permissions import service as service_module
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore

ORGANIZATION, OTHER = uuid.uuid4(), uuid.uuid4()
AGENT = principal(ORGANIZATION, role="agent")


class CountingStore(MemoryPermissionStore):
    def __init__(self) -> None:
        super().__init__({"agent": ["tickets.read"]})
        self.asked = 0
        self.while_asked: Callable[[], None] = lambda: None

    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Collection[str]:
        self.asked += 1
        found = await super().grants(organization_id, user_id, role)
        self.while_asked()
        return found


class ReadOnlyStore:
    async def grants(self, organization_id: uuid.UUID, user_id: uuid.UUID, role: str) -> Collection[str]:
        return ["Tickets.read"]


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(store: CountingStore, clock: Clock) -> PermissionService:
    return PermissionService(store, ttl=300, now=clock)


async def test_role_and_user_grants_add_up(service: PermissionService, store: CountingStore) -> None:
    await store.grant_user(ORGANIZATION, AGENT.user_id, "tickets.close")
    assert await service.check_all(AGENT, ["tickets.read", "tickets.close"])
    assert not await service.check(AGENT, "tickets.delete")
    assert await service.check_any(AGENT, ["tickets.delete", "tickets.close"])
    assert not await service.check_any(AGENT, ["tickets.delete", "users.read"])
    assert not await service.check_all(AGENT, ["tickets.read", "tickets.delete"])


async def test_nothing_is_known_before_the_first_question_and_all_after_it(
    service: PermissionService, store: CountingStore
) -> None:
    assert service.check_cached(AGENT, "tickets.read") is None
    await service.check(AGENT, "tickets.read")
    assert service.check_cached(AGENT, "tickets.read") is True
    assert service.check_cached(AGENT, "tickets.create") is False
    assert store.asked == 1


async def test_super_roles_hold_everything_without_asking(store: CountingStore) -> None:
    service = PermissionService(store, super_roles=("owner", "root"))
    for role in ("owner", "root"):
        assert service.check_cached(principal(ORGANIZATION, role=role), "any.thing") is True
    assert (await service.held_by(principal(ORGANIZATION, role="root"))).names == {"*"}
    assert store.asked == 0


async def test_an_answer_is_believed_for_its_time_only(
    service: PermissionService, store: CountingStore, clock: Clock
) -> None:
    await service.check(AGENT, "tickets.read")
    clock.advance(299)
    assert service.check_cached(AGENT, "tickets.read") is True
    clock.advance(1)
    assert service.check_cached(AGENT, "tickets.read") is None


async def test_a_change_takes_effect_at_once(service: PermissionService, store: CountingStore) -> None:
    assert not await service.check(AGENT, "tickets.create")
    assert await store.grant_role(ORGANIZATION, "agent", "tickets.create")
    assert await service.check(AGENT, "tickets.create")
    assert await store.revoke_role(ORGANIZATION, "agent", "tickets.create")
    assert not await service.check(AGENT, "tickets.create")


async def test_a_change_of_one_organization_leaves_the_others_cached(
    service: PermissionService, store: CountingStore
) -> None:
    await service.check(AGENT, "tickets.read")
    await store.grant_role(OTHER, "agent", "tickets.create")
    assert service.check_cached(AGENT, "tickets.create") is False


async def test_an_answer_that_a_change_overtook_is_not_kept(service: PermissionService, store: CountingStore) -> None:
    store.while_asked = lambda: service.invalidate(ORGANIZATION)
    await service.check(AGENT, "tickets.create")
    assert service.check_cached(AGENT, "tickets.create") is None


async def test_grants_of_an_earlier_role_are_not_used_for_the_new_one(service: PermissionService) -> None:
    await service.check(AGENT, "tickets.read")
    demoted = replace(AGENT, role="guest")
    assert service.check_cached(demoted, "tickets.read") is None
    assert not await service.check(demoted, "tickets.read")


async def test_a_counter_that_moved_unheard_drops_everything(service: PermissionService, store: CountingStore) -> None:
    service.refresh_epoch(4)
    await service.check(AGENT, "tickets.read")
    service.refresh_epoch(4)
    assert service.check_cached(AGENT, "tickets.read") is True
    service.refresh_epoch(5)
    assert service.check_cached(AGENT, "tickets.read") is None


async def test_a_change_made_here_without_listener_explains_the_counter(
    service: PermissionService, store: CountingStore
) -> None:
    service.refresh_epoch(4)
    await store.grant_role(OTHER, "agent", "tickets.create")
    await service.check(AGENT, "tickets.read")
    service.refresh_epoch(5)
    assert service.check_cached(AGENT, "tickets.read") is True


async def test_what_is_missing_is_named(service: PermissionService) -> None:
    await service.require(AGENT, "tickets.read")
    with pytest.raises(PermissionDenied) as denied:
        await service.require(AGENT, "tickets.read", "tickets.create", "tickets.delete")
    assert denied.value.message == 'permission denied: missing capability "tickets.create"'


async def test_one_of_several_is_enough_when_asked_so(service: PermissionService) -> None:
    await service.require(AGENT, "tickets.create", "tickets.read", any_of=True)
    with pytest.raises(PermissionDenied) as denied:
        await service.require(AGENT, "tickets.create", "tickets.delete", any_of=True)
    assert denied.value.message == 'permission denied: missing capability "tickets.create" or "tickets.delete"'


async def test_any_of_nothing_is_denied_and_all_of_nothing_allowed(service: PermissionService) -> None:
    assert not await service.check_any(AGENT, [])
    assert await service.check_all(AGENT, [])


async def test_a_host_needs_only_one_method_for_its_own_source_of_grants() -> None:
    service = PermissionService(ReadOnlyStore())
    assert await service.check(AGENT, "tickets.read")
    assert not await service.check(AGENT, "tickets.create")


async def test_memory_is_bounded(service: PermissionService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_USERS", 3)
    monkeypatch.setattr(service_module, "MAX_DECISIONS", 4)
    for _ in range(10):
        await service.check(principal(ORGANIZATION, role="agent"), "tickets.read")
    for number in range(20):
        await service.check(AGENT, f"model{number}.read")
    assert len(service._held) == 3
    assert len(service._held[AGENT.user_id].decisions) <= 4


async def test_grants_of_the_host_hold_everywhere_and_cannot_be_revoked_in_one_organization(
    store: CountingStore,
) -> None:
    assert await store.role_grants(OTHER) == {"agent": {"tickets.read"}}
    assert not await store.grant_role(ORGANIZATION, "agent", "Tickets.read")
    with pytest.raises(Conflict):
        await store.revoke_role(ORGANIZATION, "agent", "tickets.read")


async def test_what_is_malformed_is_never_granted(store: CountingStore) -> None:
    with pytest.raises(InvalidInput):
        await store.grant_role(ORGANIZATION, "agent", "everything")
    with pytest.raises(InvalidInput):
        await store.grant_user(ORGANIZATION, AGENT.user_id, "")
    with pytest.raises(InvalidInput):
        MemoryPermissionStore({"agent": ["tickets"]})
