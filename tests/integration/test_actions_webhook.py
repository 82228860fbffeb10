"""Actions that call the addon's backend: where they are sent, what comes of each answer, and whose host it is."""

from __future__ import annotations

import json
from typing import Any

import orjson
from tests import workshop
from tests.conftest import DatabaseUrls
from tests.control_plane import control_plane
from tests.outside import Received, outside, reply
from tests.workshop import act

from metacore.egress.broker import EgressConfig

LOOPBACK = EgressConfig.parse(["127.0.0.0/8"])


def manifest(url: str, elsewhere: str) -> dict[str, Any]:
    """Actions by a URL of their own, and one that names no handler."""
    made = workshop.workshop_manifest(backend={"runtime": "webhook", "url": url})
    actions = [
        {"key": key, "target_model": "Order", "handler": {"type": "webhook", "url": place}}
        for key, place in (("ship", "/ship"), ("away", elsewhere))
    ]
    made["contributions"] = {"actions": [*actions, {"key": "plain", "target_model": "Order"}]}
    return made


def answering(received: Received) -> bytes:
    """What the backend answers is what the input asks for."""
    asked = orjson.loads(received.body)["input"]
    if asked.get("gone"):
        return b""
    return reply(status=asked.get("status", 200), body=json.dumps(asked.get("answer")).encode())


async def test_a_backend_is_called_and_its_answer_is_the_action_s(database_urls: DatabaseUrls) -> None:
    async with (
        outside(answering) as server,
        outside(answering) as other,
        control_plane(database_urls, egress=LOOPBACK, enforce=True) as plane,
    ):
        await workshop.install(plane, plane.ada, manifest=manifest(server.url("/base"), other.url("/away")))
        order = await workshop.order(plane, plane.ada, title="chair")
        answer = await act(plane, plane.ada, "ship", order, answer={"success": True, "data": {"sent": 1}})
        assert (answer.status_code, answer.json()["data"]) == (200, {"sent": 1}), answer.text
        assert answer.json()["meta"] == {"model": "Order", "action": "ship", "trigger": "webhook"}
        got = server.received[-1]
        assert (got.method, got.path, got.headers["x-metacore-event"]) == ("POST", "/base/ship", "Order::ship")
        assert orjson.loads(got.body)["row"]["title"] == "chair"
        # Without a handler the backend's own URL is called.
        plain = await act(plane, plane.ada, "plain", order, answer=[1, 2])
        assert (plain.json()["data"], server.received[-1].path) == ([1, 2], "/base")
        for given, code in (
            ({"answer": {"success": False, "error": {"code": "sold", "message": "m"}}}, "sold"),
            ({"status": 409, "answer": {"error": {"code": "busy", "message": "m"}}}, "busy"),
            ({"status": 404, "answer": {"anything": 1}}, "http_404"),
            ({"status": 500, "answer": None}, "backend_error"),
        ):
            declined = await act(plane, plane.ada, "ship", order, **given)
            assert (declined.status_code, declined.json()["error"]["code"]) == (422, code), declined.text
        # In enforce a host that is not its backend's needs a grant.
        away = await act(plane, plane.ada, "away", order)
        assert (away.status_code, away.json()["error"]["code"]) == (403, "forbidden"), away.text
        assert away.json()["meta"]["action"] == "away"
        assert other.received == []
        gone = await act(plane, plane.ada, "ship", order, gone=True)
        assert (gone.status_code, gone.json()["success"]) == (503, False), gone.text
