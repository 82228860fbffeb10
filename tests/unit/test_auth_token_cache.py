"""The cached way of a request: no I/O when all is known, and nothing stale once somebody said that it changed."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.accounts import START, Clock

from metacore.auth.token_cache import SessionFacts, TokenCache
from metacore.auth.tokens import AccessClaims
from metacore.errors import Unauthenticated, Unavailable
from metacore.ids import OrganizationId, SessionId, UserId

TTL = 30.0
ORGANIZATION = OrganizationId(uuid.uuid4())


class World:
    """Claims by token and facts by session, standing in for signatures and the database; counts what is asked."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.claims: dict[str, AccessClaims] = {}
        self.facts: dict[SessionId, SessionFacts] = {}
        self.verified = 0
        self.loaded = 0
        self.before_answer: Callable[[], None] = lambda: None
        self.gate: asyncio.Event | None = None
        self.asked: asyncio.Queue[None] = asyncio.Queue()

    def add(self, token: str, *, life: float = 3600, session: SessionId | None = None) -> UserId:
        user_id = UserId(uuid.uuid4())
        session_id = session or SessionId(uuid.uuid4())
        self.claims[token] = AccessClaims(user_id, ORGANIZATION, session_id, 0, START + life)
        self.facts[session_id] = SessionFacts(
            user_id=user_id,
            organization_id=ORGANIZATION,
            email="ada@example.com",
            role="owner",
            status="active",
            epoch=0,
            session_expires_at=datetime.datetime.fromtimestamp(START + 86_400, datetime.UTC),
            session_revoked=False,
        )
        return user_id

    def change(self, token: str, **changes: object) -> None:
        session_id = self.claims[token].session_id
        self.facts[session_id] = replace(self.facts[session_id], **changes)  # type: ignore[arg-type]

    def verify(self, token: str) -> AccessClaims:
        self.verified += 1
        if token not in self.claims:
            raise Unauthenticated("invalid token", code="invalid_token")
        return self.claims[token]

    async def load(self, claims: AccessClaims) -> SessionFacts | None:
        self.loaded += 1
        self.asked.put_nowait(None)
        facts = self.facts.get(claims.session_id)
        if self.gate is not None:
            await self.gate.wait()
        self.before_answer()
        return facts

    def cache(self, size: int = 100) -> TokenCache:
        return TokenCache(self.verify, self.load, ttl=TTL, size=size, now=self.clock)


@pytest.fixture
def world() -> World:
    return World()


async def refusal(cache: TokenCache, token: str) -> str:
    assert cache.peek(token) is None
    with pytest.raises(Unauthenticated) as refused:
        await cache.resolve(token)
    return refused.value.code


async def test_a_resolved_token_is_at_hand_without_another_question(world: World) -> None:
    user_id = world.add("t")
    cache = world.cache()
    assert cache.peek("t") is None
    principal = await cache.resolve("t")
    assert (principal.user_id, principal.role, principal.organization_id) == (user_id, "owner", ORGANIZATION)
    assert principal.token_digest == hashlib.sha256(b"t").digest()
    assert cache.peek("t") is principal
    assert (world.verified, world.loaded) == (1, 1)


async def test_expiry_is_checked_on_each_use(world: World) -> None:
    world.add("t", life=10)
    cache = world.cache()
    await cache.resolve("t")
    world.clock.advance(10)
    assert await refusal(cache, "t") == "token_expired"


async def test_facts_are_read_again_after_their_time_but_the_signature_is_not(world: World) -> None:
    world.add("t")
    cache = world.cache()
    await cache.resolve("t")
    world.change("t", role="agent")
    world.clock.advance(TTL)
    assert cache.peek("t") is None
    assert (await cache.resolve("t")).role == "agent"
    assert (world.verified, world.loaded) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"session_revoked": True}, "token_revoked"),
        ({"epoch": 1}, "token_revoked"),
        ({"status": "disabled"}, "user_disabled"),
        ({"organization_id": OrganizationId(uuid.uuid4())}, "token_revoked"),
    ],
)
async def test_an_invalidation_takes_effect_at_once(world: World, changes: dict[str, object], code: str) -> None:
    user_id = world.add("t")
    cache = world.cache()
    await cache.resolve("t")
    world.change("t", **changes)
    cache.invalidate(user_id)
    assert await refusal(cache, "t") == code
    assert await refusal(cache, "t") == code
    assert world.loaded == 2, "a refusal is remembered too"


async def test_a_session_that_does_not_exist_is_refused(world: World) -> None:
    world.add("t")
    world.facts.clear()
    assert await refusal(world.cache(), "t") == "token_revoked"


async def test_a_session_ends_at_its_end_whatever_is_cached(world: World) -> None:
    world.add("t")
    world.change("t", session_expires_at=datetime.datetime.fromtimestamp(START + 5, datetime.UTC))
    cache = world.cache()
    await cache.resolve("t")
    world.clock.advance(5)
    assert await refusal(cache, "t") == "token_revoked"


async def test_invalidating_one_user_leaves_the_others_cached(world: World) -> None:
    world.add("a")
    other = world.add("b")
    cache = world.cache()
    await cache.resolve("a")
    await cache.resolve("b")
    cache.invalidate(other)
    assert cache.peek("a") is not None
    assert cache.peek("b") is None


async def test_invalidating_everybody_drops_everything(world: World) -> None:
    world.add("a")
    world.add("b")
    cache = world.cache()
    await cache.resolve("a")
    await cache.resolve("b")
    cache.invalidate(None)
    assert cache.peek("a") is None
    assert cache.peek("b") is None


async def test_an_answer_that_a_change_overtook_is_not_kept(world: World) -> None:
    user_id = world.add("t")
    cache = world.cache()

    def overtake() -> None:
        world.change("t", session_revoked=True)
        cache.invalidate(user_id)

    world.before_answer = overtake
    await cache.resolve("t")
    world.before_answer = lambda: None
    assert await refusal(cache, "t") == "token_revoked"


async def test_who_comes_after_a_change_does_not_join_a_query_from_before_it(world: World) -> None:
    user_id = world.add("t")
    cache = world.cache()
    world.gate = asyncio.Event()
    early = asyncio.create_task(cache.resolve("t"))
    await world.asked.get()
    world.change("t", session_revoked=True)
    cache.invalidate(user_id)
    late = asyncio.create_task(cache.resolve("t"))
    await world.asked.get()
    world.gate.set()
    assert (await early).user_id == user_id
    with pytest.raises(Unauthenticated):
        await late
    assert await refusal(cache, "t") == "token_revoked"


async def test_many_requests_of_one_session_share_one_query(world: World) -> None:
    world.add("t")
    cache = world.cache()
    world.gate = asyncio.Event()
    callers = [asyncio.create_task(cache.resolve("t")) for _ in range(20)]
    await world.asked.get()
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    world.gate.set()
    assert {principal.role for principal in await asyncio.gather(*callers[1:])} == {"owner"}
    assert world.loaded == 1


async def test_a_failed_query_is_everybodys_error_and_nobodys_state(world: World) -> None:
    world.add("t")
    cache = world.cache()

    def broken() -> None:
        raise Unavailable("no database")

    world.before_answer = broken
    with pytest.raises(Unavailable):
        await cache.resolve("t")
    world.before_answer = lambda: None
    assert (await cache.resolve("t")).role == "owner"


async def test_memory_is_bounded_and_what_was_dropped_can_still_be_invalidated(world: World) -> None:
    users = [world.add(f"t{number}") for number in range(20)]
    cache = world.cache(size=5)
    for number in range(20):
        await cache.resolve(f"t{number}")
    assert len(cache) == 5
    world.change("t19", session_revoked=True)
    cache.invalidate(users[19])
    assert await refusal(cache, "t19") == "token_revoked"
    assert (await cache.resolve("t0")).user_id == users[0]


async def test_used_tokens_stay_and_forgotten_ones_go(world: World) -> None:
    for name in ("kept", "a", "b"):
        world.add(name)
    cache = world.cache(size=2)
    await cache.resolve("kept")
    await cache.resolve("a")
    assert cache.peek("kept") is not None
    await cache.resolve("b")
    await cache.resolve("kept")
    assert world.verified == 3
    await cache.resolve("a")
    assert world.verified == 4


async def test_a_state_dropped_for_space_is_not_believed_by_a_token_that_stayed(world: World) -> None:
    session = SessionId(uuid.uuid4())
    world.add("t", session=session)
    cache = world.cache(size=2)
    await cache.resolve("t")
    for name in ("a", "b"):
        world.add(name)
        cache.peek("t")
        await cache.resolve(name)
    # The session of `t` is the oldest of three; two are kept.
    assert cache.peek("t") is None
    assert (await cache.resolve("t")).session_id == session


@pytest.mark.parametrize("token", ["ünïcödé", "\ud800", "unknown"])
async def test_what_is_no_token_is_refused(world: World, token: str) -> None:
    assert await refusal(world.cache(), token) == "invalid_token"
