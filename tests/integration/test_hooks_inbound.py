"""Webhooks that come in, end to end: signed by their sender, handled once, and only where they belong."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
from sqlalchemy import update
from tests import workshop
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane

from metacore.addons.handlers.compiled import FunctionCall
from metacore.db.database import Database
from metacore.errors import Refused
from metacore.orm.tables import HookDelivery

SECRET = "whsec_" + base64.b64encode(b"a secret of the sender ..").decode()
BODY = {"order": 7, "paid": True}
WEBHOOKS = [
    {"key": "paid", "path": "/paid", "verify": "hmac-sha256", "secret_ref": "token", "do": "wasm:echo"},
    {"key": "slow", "path": "/deep/slow", "verify": "hmac-sha256", "secret_ref": "token", "do": "compiled:slow"},
    {"key": "open", "path": "/open", "do": "wasm:echo"},
    {"key": "nothing", "path": "/nothing", "verify": "hmac-sha256", "secret_ref": "token"},
    {"key": "lost", "path": "/lost", "verify": "hmac-sha256", "secret_ref": "nowhere", "do": "wasm:echo"},
]


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    """Ada's organization has the addon and has told it the secret of its sender; Eve's has the addon alone."""
    async with control_plane(database_urls, max_body_bytes=65_536) as opened:
        await workshop.install(opened, opened.ada, opened.eve, manifest=workshop.workshop_manifest(webhooks=WEBHOOKS))
        told = await opened.client.put(
            "/api/metacore/installations/workshop/settings", json={"token": SECRET}, headers=opened.ada
        )
        assert told.status_code == 200, told.text
        yield opened


async def installation(plane: Plane, headers: Headers) -> str:
    me = await plane.client.get("/api/auth/me", headers=headers)
    organization = uuid.UUID(me.json()["data"]["user"]["organization_id"])
    return str(plane.app.registry.snapshot.installed[organization]["workshop"].installation_id)


def signed(body: bytes, identifier: str = "msg_1", *, at: float | None = None, secret: str = SECRET) -> Headers:
    timestamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": identifier,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


async def post(
    plane: Plane,
    path: str = "paid",
    body: bytes = orjson.dumps(BODY),
    headers: Headers | None = None,
    *,
    to: str = "",
    **more: Any,
) -> httpx2.Response:
    place = to or await installation(plane, plane.ada)
    given = signed(body) if headers is None else headers
    return await plane.client.post(f"/api/metacore/hooks/{place}/{path}", content=body, headers=given, **more)


async def test_a_signed_delivery_reaches_the_handler_whole(plane: Plane) -> None:
    headers = {**signed(orjson.dumps(BODY)), "X-Kind": "order", "Cookie": "a=b", "Authorization": "Basic x"}
    answer = await post(plane, "paid?a=1", headers=headers)
    assert answer.status_code == 200, answer.text
    seen = answer.json()["data"]
    assert (seen["webhook"], seen["delivery"], seen["method"], seen["path"]) == ("paid", "msg_1", "POST", "/paid")
    assert (seen["body"], seen["encoding"], seen["query"]) == (BODY, "json", {"a": "1"})
    assert seen["headers"]["x-kind"] == "order"
    assert not {"cookie", "authorization"} & seen["headers"].keys()


async def test_bodies_that_are_no_json_arrive_as_text_or_base64(plane: Plane) -> None:
    for number, (body, encoding, expected) in enumerate(
        [(b"a=1&b=2", "text", "a=1&b=2"), (b"\xff\xfe", "base64", "//4="), (b"", "text", "")]
    ):
        answer = await post(plane, body=body, headers=signed(body, f"m{number}"))
        assert (answer.json()["data"]["encoding"], answer.json()["data"]["body"]) == (encoding, expected)


async def test_what_is_not_signed_by_the_sender_is_401_and_runs_nothing(plane: Plane) -> None:
    body = orjson.dumps(BODY)
    other = "whsec_" + base64.b64encode(b"the secret of another one").decode()
    for headers in (
        {},
        signed(b"{}"),
        signed(body, secret=other),
        signed(body, at=time.time() - 3_600),
        {**signed(body), "webhook-id": "msg_2"},
        plane.ada,
    ):
        answer = await post(plane, headers=headers)
        assert answer.status_code == 401, answer.text
        assert SECRET not in answer.text
    assert _runs(plane) == 0


async def test_the_secret_of_one_organization_opens_no_other(plane: Plane) -> None:
    hers = await installation(plane, plane.eve)
    answer = await post(plane, to=hers)
    assert (answer.status_code, answer.json()["code"]) == (401, "no_secret")
    told = await plane.client.put(
        "/api/metacore/installations/workshop/settings",
        json={"token": "whsec_" + base64.b64encode(b"the secret of eve alone .").decode()},
        headers=plane.eve,
    )
    assert told.status_code == 200
    assert (await post(plane, to=hers)).status_code == 401
    assert (await post(plane)).status_code == 200


async def test_a_webhook_whose_secret_nobody_set_is_closed(plane: Plane) -> None:
    assert (await post(plane, "lost")).json()["code"] == "no_secret"


async def test_unknown_places_are_404_whatever_is_sent(plane: Plane) -> None:
    own = await installation(plane, plane.ada)
    for place, path in (
        (str(uuid.uuid4()), "paid"),
        (own, "unpaid"),
        (own, "paid/deeper"),
        (own, ""),
    ):
        answer = await post(plane, path, to=place)
        assert answer.status_code == 404, (place, path, answer.text)
    assert (await post(plane, to="no-id")).status_code == 400
    assert (await plane.client.get(f"/api/metacore/hooks/{own}/paid")).status_code == 405


async def test_a_disabled_addon_receives_nothing(plane: Plane) -> None:
    async with plane.working():
        off = await plane.client.post("/api/metacore/installations/workshop/disable", headers=plane.ada)
        assert off.status_code == 200, off.text
    assert (await post(plane)).status_code == 404


async def test_a_delivery_is_handled_once_and_answered_again(plane: Plane) -> None:
    first = await post(plane)
    again = await post(plane, headers=signed(orjson.dumps(BODY)))
    assert first.json()["data"] == again.json()["data"]
    assert _runs(plane) == 1
    other = await post(plane, headers=signed(orjson.dumps(BODY), "msg_2"))
    assert other.json()["data"]["delivery"] == "msg_2"
    assert _runs(plane) == 2


async def test_the_same_delivery_at_once_runs_once(plane: Plane) -> None:
    entered, leave, calls = asyncio.Event(), asyncio.Event(), []

    async def slow(call: FunctionCall) -> Any:
        calls.append(call.invocation_id)
        entered.set()
        await leave.wait()
        return {"calls": len(calls)}

    plane.app.functions.register("workshop", "slow", slow)
    first = asyncio.create_task(post(plane, "deep/slow"))
    await entered.wait()
    second = await post(plane, "deep/slow")
    assert (second.status_code, second.json()["code"]) == (409, "delivery_running")
    leave.set()
    assert (await first).json()["data"] == {"calls": 1}
    assert (await post(plane, "deep/slow")).json()["data"] == {"calls": 1}
    assert len(calls) == 1


async def test_a_delivery_that_failed_runs_again_under_the_same_invocation(plane: Plane) -> None:
    calls: list[uuid.UUID] = []

    async def moody(call: FunctionCall) -> Any:
        calls.append(call.invocation_id)
        if len(calls) == 1:
            raise Refused("not today", code="later")
        if len(calls) == 2:
            raise ValueError("a bug that nobody outside may read about")
        return {"calls": len(calls)}

    plane.app.functions.register("workshop", "slow", moody)
    declined = await post(plane, "deep/slow")
    assert (declined.status_code, declined.json()["code"], declined.json()["message"]) == (422, "later", "not today")
    broken = await post(plane, "deep/slow")
    assert (broken.status_code, broken.json()["code"]) == (503, "addon_failed")
    assert "bug" not in broken.text
    assert (await post(plane, "deep/slow")).json()["data"] == {"calls": 3}
    assert len(set(calls)) == 1


async def test_a_delivery_that_died_with_its_kernel_runs_again(plane: Plane, owner_db: Database) -> None:
    assert (await post(plane)).status_code == 200
    ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=3)
    async with owner_db.transaction(None) as connection:
        await connection.execute(update(HookDelivery).values(status="running", started_at=ago, reply=None))
    assert (await post(plane)).status_code == 200
    assert _runs(plane) == 2


async def test_old_deliveries_are_forgotten(plane: Plane, owner_db: Database) -> None:
    assert (await post(plane)).status_code == 200
    ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
    async with owner_db.transaction(None) as connection:
        await connection.execute(update(HookDelivery).values(started_at=ago))
    assert (await post(plane, headers=signed(orjson.dumps(BODY), "msg_2"))).status_code == 200
    async with owner_db.transaction(None) as connection:
        rows = (await connection.execute(HookDelivery.__table__.select())).all()
    assert [row.delivery_id for row in rows] == ["msg_2"]


async def test_a_webhook_without_verification_or_handler_does_what_it_says(plane: Plane) -> None:
    answer = await post(plane, "open", headers={"X-GitHub-Delivery": "d1"})
    assert answer.json()["data"]["delivery"] == "d1"
    assert (await post(plane, "nothing")).json() == {"success": True, "data": None}
    assert (await post(plane, "nothing", headers={})).status_code == 401


async def test_a_body_that_is_too_large_is_413_said_or_not(plane: Plane) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000

    assert (await post(plane, "open", body=b"x" * 70_000, headers={})).status_code == 413
    place = await installation(plane, plane.ada)
    unsaid = await plane.client.post(f"/api/metacore/hooks/{place}/open", content=drip())
    assert unsaid.status_code == 413


def _runs(plane: Plane) -> int:
    text = plane.app.metrics.render().decode()
    lines = [line for line in text.splitlines() if line.startswith("metacore_addon_invocations_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if 'trigger="webhook"' in line))
