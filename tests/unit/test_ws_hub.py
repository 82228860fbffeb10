"""The hub's own rules: who gets what, who is closed with which code, who is asked again."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from tests.arrivals import Arrivals
from tests.factories import principal

from metacore.errors import Unauthenticated, Unavailable
from metacore.identity import Principal
from metacore.ids import OrganizationId, SessionId, UserId
from metacore.metrics import Metrics
from metacore.ws.connection import Connection
from metacore.ws.hub import Hub
from metacore.ws.messages import Message, MessageType

ACME = uuid.uuid4()
OTHER = uuid.uuid4()


class FakeSink:
    def __init__(self, *, slow: bool = False) -> None:
        self.slow = slow
        self.messages: list[dict[str, Any]] = []
        self.closed: Arrivals[tuple[int, str]] = Arrivals()

    def push(self, message: Message) -> bool:
        if self.slow:
            return False
        self.messages.append(json.loads(message.text))
        return True

    def end(self, code: int, reason: str) -> None:
        self.closed((code, reason))


def join(hub: Hub, who: Principal, **options: Any) -> tuple[FakeSink, Connection]:
    sink = FakeSink(slow=options.pop("slow", False))
    return sink, hub.connect(who, sink, **options)


async def test_a_message_reaches_every_connection_of_its_user_and_nobody_else() -> None:
    hub, ada, bob = Hub(), principal(ACME), principal(ACME)
    phone, _ = join(hub, ada)
    laptop, _ = join(hub, ada)
    stranger, _ = join(hub, bob)
    assert hub.send_to_user(ada.user_id, Message("CUSTOM", {"n": 1})) == 2
    assert phone.messages == laptop.messages == [{"type": "CUSTOM", "payload": {"n": 1}}]
    assert stranger.messages == []


async def test_a_message_to_several_users_reaches_each_once() -> None:
    hub, ada, bob, eve = Hub(), principal(ACME), principal(ACME), principal(ACME)
    sinks = [join(hub, who)[0] for who in (ada, bob, eve)]
    assert hub.send_to_users([ada.user_id, bob.user_id, ada.user_id, UserId(uuid.uuid4())], Message("X", None)) == 2
    assert [len(sink.messages) for sink in sinks] == [1, 1, 0]


async def test_a_predicate_picks_by_organization_role_and_channel() -> None:
    hub = Hub()
    inside, _ = join(hub, principal(ACME), channel="board")
    elsewhere, _ = join(hub, principal(ACME), channel="list")
    foreign, _ = join(hub, principal(OTHER), channel="board")
    reached = hub.send_conditional(
        lambda connection: connection.principal.organization_id == ACME and connection.channel == "board",
        Message(MessageType.STATUS_UPDATE, {}),
    )
    assert reached == 1
    assert [len(sink.messages) for sink in (inside, elsewhere, foreign)] == [1, 0, 0]


async def test_connected_users_are_those_with_a_connection_left() -> None:
    hub, ada, bob = Hub(), principal(ACME), principal(OTHER)
    _, first = join(hub, ada)
    _, second = join(hub, ada)
    join(hub, bob)
    assert hub.connected_users() == {ada.user_id, bob.user_id}
    assert hub.connected_users(OrganizationId(ACME)) == {ada.user_id}
    hub.disconnect(first)
    assert ada.user_id in hub.connected_users()
    hub.disconnect(second)
    hub.disconnect(second)
    assert hub.connected_users() == {bob.user_id}
    assert len(hub) == 1


async def test_a_slow_client_is_closed_with_1013_and_the_others_get_the_message() -> None:
    metrics = Metrics(process=False)
    hub = Hub(metrics)
    slow, _ = join(hub, principal(ACME), slow=True)
    quick, _ = join(hub, principal(ACME))
    assert hub.send_conditional(lambda _: True, Message("X", 1)) == 1
    assert slow.closed.items == [(1013, "too slow")]
    assert quick.messages == [{"type": "X", "payload": 1}]
    assert len(hub) == 1
    text = metrics.render()
    assert b"metacore_ws_slow_clients_total 1.0" in text
    assert b"metacore_ws_messages_total 1.0" in text
    assert b"metacore_ws_connections 1.0" in text


async def test_the_notification_hook_sees_notifications_for_absent_users_too() -> None:
    hub, absent = Hub(), UserId(uuid.uuid4())
    seen: list[tuple[frozenset[UserId], str]] = []
    hub.on_notification(lambda users, message: seen.append((users, message.type)))
    hub.send_to_user(absent, Message("NOTIFICATION", {"title": "hi"}))
    hub.send_to_user(absent, Message("CUSTOM", {}))
    assert seen == [(frozenset({absent}), "NOTIFICATION")]


async def test_the_notification_hook_of_a_broadcast_gets_who_was_picked() -> None:
    hub, ada, bob = Hub(), principal(ACME), principal(OTHER)
    join(hub, ada)
    join(hub, bob)
    seen: list[frozenset[UserId]] = []
    hub.on_notification(lambda users, message: seen.append(users))
    hub.send_conditional(lambda one: one.principal.organization_id == ACME, Message("NOTIFICATION", {}))
    assert seen == [frozenset({ada.user_id})]


async def test_a_failing_hook_does_not_stop_the_message_or_the_next_hook(caplog: pytest.LogCaptureFixture) -> None:
    hub, ada, seen = Hub(), principal(ACME), Arrivals[str]()
    sink, _ = join(hub, ada)

    def fails(users: frozenset[UserId], message: Message) -> None:
        raise RuntimeError("broken hook")

    async def fails_later(users: frozenset[UserId], message: Message) -> None:
        raise RuntimeError("broken hook")

    async def works(users: frozenset[UserId], message: Message) -> None:
        seen(message.type)

    for hook in (fails, fails_later, works):
        hub.on_notification(hook)
    hub.send_to_user(ada.user_id, Message("NOTIFICATION", {}))
    await seen.reach(1)
    assert len(sink.messages) == 1
    assert [record.getMessage() for record in caplog.records] == ["ws.notification_hook_failed"] * 2


async def test_a_payload_without_json_form_reaches_nobody() -> None:
    hub, ada = Hub(), principal(ACME)
    sink, _ = join(hub, ada)
    with pytest.raises(TypeError):
        hub.send_to_user(ada.user_id, Message("X", {("no", "key"): 1}))
    assert sink.messages == []
    assert len(hub) == 1


async def test_payloads_may_hold_ids_and_times() -> None:
    identifier = uuid.uuid4()
    assert json.loads(Message("X", {"id": identifier}).text)["payload"] == {"id": str(identifier)}


async def test_an_expired_token_closes_with_4401() -> None:
    hub = Hub(now=lambda: 1000.0)
    sink, _ = join(hub, replace(principal(ACME), expires_at=1000.0))
    await sink.closed.reach(1)
    assert sink.closed.items == [(4401, "token expired")]
    assert len(hub) == 0


async def test_a_client_that_leaves_leaves_no_timer_behind() -> None:
    hub = Hub()
    _, connection = join(hub, principal(ACME))
    timer = connection.expiry
    assert timer is not None and not timer.cancelled()
    hub.disconnect(connection)
    assert timer.cancelled()


async def test_revoking_closes_connections_of_a_user_or_of_one_session() -> None:
    hub, ada = Hub(), principal(ACME)
    session = SessionId(uuid.uuid4())
    phone, _ = join(hub, replace(ada, session_id=session))
    laptop, _ = join(hub, ada)
    bystander, _ = join(hub, principal(ACME))
    assert hub.revoke(session_id=session) == 1
    assert (phone.closed.items, laptop.closed.items) == ([(4401, "token revoked")], [])
    assert hub.revoke(user_id=ada.user_id) == 1
    assert laptop.closed.items == [(4401, "token revoked")]
    assert hub.revoke() == 0
    assert bystander.closed.items == []


async def test_after_a_change_only_tokens_that_still_hold_stay_and_roles_follow() -> None:
    hub, ada, bob = Hub(), principal(ACME, role="agent"), principal(ACME)

    async def promoted() -> Principal:
        return replace(ada, role="admin")

    async def disabled() -> Principal:
        raise Unauthenticated("user disabled")

    kept, connection = join(hub, ada, verify=promoted)
    dropped, _ = join(hub, bob, verify=disabled)
    await hub.recheck(ada.user_id)
    assert connection.principal.role == "admin"
    assert dropped.closed.items == []
    hub.invalidate(None)
    await dropped.closed.reach(1)
    assert dropped.closed.items == [(4401, "token revoked")]
    assert kept.closed.items == []


async def test_a_database_that_does_not_answer_throws_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    async def unknown() -> Principal:
        raise Unavailable("database away")

    hub = Hub()
    sink, _ = join(hub, principal(ACME), verify=unknown)
    await hub.recheck(None)
    assert sink.closed.items == []
    assert "ws.recheck_failed" in caplog.text


async def test_many_changes_at_once_are_checked_together() -> None:
    hub, ada, checks, gate = Hub(), principal(ACME), Arrivals[int](), asyncio.Event()

    async def verify() -> Principal:
        checks(1)
        await gate.wait()
        return ada

    join(hub, ada, verify=verify)
    hub.invalidate(ada.user_id)
    await checks.reach(1)
    for _ in range(100):
        hub.invalidate(ada.user_id)
        hub.invalidate(None)
    gate.set()
    await checks.reach(2)
    await hub.stop()
    assert len(checks.items) == 2


async def test_stopping_closes_everybody() -> None:
    hub = Hub()
    sink, _ = join(hub, principal(ACME))
    await hub.stop()
    assert sink.closed.items == [(1001, "server stops")]


async def test_what_clients_send_goes_to_the_hook_and_its_failure_stays_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, seen = Hub(), list[str]()
    _, connection = join(hub, principal(ACME))
    await hub.received(connection, "ignored without a hook")

    async def hook(sender: Connection, text: str) -> None:
        seen.append(text)
        if text == "bad":
            raise RuntimeError("broken hook")

    hub.on_message(hook)
    await hub.received(connection, "bad")
    await hub.received(connection, "good")
    assert seen == ["bad", "good"]
    assert "ws.message_hook_failed" in caplog.text
