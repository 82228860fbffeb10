"""http_fetch and http_request out of a guest: under its capability, through the broker, within its time."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from tests import workshop
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.guests.script import host, script
from tests.names import Names
from tests.outside import Received, outside, reply

from metacore.addons.invocation import Handler, Invocation, Result
from metacore.capabilities.access import Mode
from metacore.egress.broker import EgressConfig
from metacore.egress.resolving import owner

ADDRESSES = {
    "localhost": [["127.0.0.1"]],
    "api_example_com": [["127.0.0.1"]],
    "other_example_com": [["127.0.0.1"]],
    "inner_example_com": [["10.0.0.1"]],
}


@asynccontextmanager
async def workshop_with_web(urls: DatabaseUrls, port: int, *, enforce: bool) -> AsyncIterator[Plane]:
    """The addon may fetch from api.example.com at `port`; what is at that port of this machine may be reached."""
    capability = {"kind": "http:fetch", "target": f"api.example.com:{port}"}
    egress = replace(EgressConfig.parse([f"127.0.0.1:{port}"]), resolver=Names(**ADDRESSES))
    async with control_plane(urls, egress=egress, enforce=enforce) as plane:
        await workshop.install(plane, plane.ada, manifest=workshop.workshop_manifest(capabilities=[capability]))
        yield plane


async def run(plane: Plane, *steps: bytes) -> Result:
    me = await plane.client.get("/api/auth/me", headers=plane.ada)
    organization = uuid.UUID(me.json()["data"]["user"]["organization_id"])
    handler = Handler("wasm", "run")
    return await plane.app.runner.run(
        Invocation("workshop", organization, "tool", "tests", handler, script(*steps), caller="tests")
    )


async def answers(plane: Plane, *requests: dict[str, Any]) -> list[Any]:
    result = await run(plane, *(host("http_request", request) for request in requests))
    assert result.success, result
    return list(result.data)


def echo(got: Received) -> bytes:
    said = {"method": got.method, "path": got.path, "headers": got.headers, "body": base64.b64encode(got.body).decode()}
    return reply(body=orjson.dumps(said), X_Two="1", Set_Cookie="a=1, b")


@pytest.mark.parametrize("enforce", [False, True])
async def test_a_request_reaches_what_was_granted_and_comes_back_whole(
    database_urls: DatabaseUrls, enforce: bool
) -> None:
    async with outside(echo) as server, workshop_with_web(database_urls, server.port, enforce=enforce) as plane:
        url = server.url("/v1?x=ü", host="API.example.com.")
        (answer,) = await answers(
            plane,
            {"url": url, "method": "put", "headers": {"X-Key": "k"}, "body": {"a": ["ü"]}},
        )
    assert answer["success"]
    data = answer["data"]
    assert (data["status"], data["encoding"], data["headers"]["x-two"]) == (200, "text", "1")
    seen = orjson.loads(data["body"])
    assert (seen["method"], seen["path"]) == ("PUT", "/v1?x=%C3%BC")
    assert orjson.loads(base64.b64decode(seen["body"])) == {"a": ["ü"]}
    assert seen["headers"]["x-key"] == "k"
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["user-agent"].endswith("addon/workshop")
    assert seen["headers"]["host"] == f"api.example.com:{server.port}"


async def test_fetch_gives_the_body_whatever_the_status(database_urls: DatabaseUrls) -> None:
    said = {"/ok": reply(body=b'{"a": 1}'), "/gone": reply(410, b'{"b": 2}')}
    async with (
        outside(lambda got: said[got.path]) as server,
        workshop_with_web(database_urls, server.port, enforce=True) as plane,
    ):
        result = await run(
            plane,
            *(host("http_fetch", server.url(path, host="api.example.com"), "POST", "hi") for path in said),
            host("http_fetch", "http://inner.example.com/", "", ""),
        )
    assert [orjson.loads(item) if isinstance(item, str) else item for item in result.data[:2]] == [{"a": 1}, {"b": 2}]
    assert result.data[2]["error"]["code"] == "forbidden"
    assert [(got.method, got.body) for got in server.received] == [("POST", b"hi")] * 2


async def test_bytes_travel_in_base64_both_ways(database_urls: DatabaseUrls) -> None:
    raw = bytes(range(256))
    async with (
        outside(lambda got: reply(body=got.body)) as server,
        workshop_with_web(database_urls, server.port, enforce=True) as plane,
    ):
        url = server.url(host="api.example.com")
        (answer,) = await answers(
            plane, {"url": url, "method": "POST", "body": base64.b64encode(raw).decode(), "encoding": "base64"}
        )
    assert base64.b64decode(answer["data"]["body"]) == raw
    assert answer["data"]["encoding"] == "base64"
    assert server.received[0].body == raw


async def test_what_was_not_granted_is_recorded_in_shadow_and_refused_in_enforce(database_urls: DatabaseUrls) -> None:
    async with outside(echo) as server, workshop_with_web(database_urls, server.port, enforce=False) as plane:
        url = server.url(host="other.example.com")
        (allowed,) = await answers(plane, {"url": url})
        await plane.app.enforcement.modes.ask(Mode.ENFORCE, "tests")
        (refused,) = await answers(plane, {"url": url})
        assert (counted(plane, "shadow"), counted(plane, "enforce")) == (1.0, 1.0)
    assert allowed["data"]["status"] == 200
    assert refused["error"]["code"] == "forbidden"
    assert len(server.received) == 1


async def test_a_redirect_needs_its_own_grant(database_urls: DatabaseUrls) -> None:
    def answer(got: Received) -> bytes:
        return reply(302, Location=f"http://other.example.com:{server.port}/") if got.path == "/away" else echo(got)

    async with outside(answer) as server, workshop_with_web(database_urls, server.port, enforce=True) as plane:
        (said,) = await answers(plane, {"url": server.url("/away", host="api.example.com")})
        assert counted(plane, "enforce") == 1.0
    assert said["error"]["code"] == "forbidden"
    assert "other.example.com" in said["error"]["message"]
    assert [got.path for got in server.received] == ["/away"]


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/iam/",
        "http://[fd00:ec2::254]/",
        "http://0xa9fea9fe/",
        "http://inner.example.com/",
        "http://localhost:5432/",
        "http://[::ffff:10.0.0.1]/",
    ],
)
async def test_no_guest_reaches_the_network_of_the_kernel_in_either_mode(
    database_urls: DatabaseUrls, url: str, enforce: bool
) -> None:
    async with outside(echo) as server, workshop_with_web(database_urls, server.port, enforce=enforce) as plane:
        (answer,) = await answers(plane, {"url": url})
        assert answer["error"]["code"] == "forbidden"
        text = plane.app.metrics.render().decode()
    assert 'metacore_capability_violations_total{addon="workshop",kind="http:fetch"' in text
    assert server.received == []


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({}, "arg_decode"),
        ({"url": 1}, "arg_decode"),
        ({"url": "http://api.example.com", "method": 1}, "arg_decode"),
        ({"url": "http://api.example.com", "headers": {"a": 1}}, "arg_decode"),
        ({"url": "http://api.example.com", "headers": []}, None),
        ({"url": "http://api.example.com", "body": "?", "encoding": "base64"}, "arg_decode"),
        ({"url": "http://api.example.com", "encoding": "rot13"}, "arg_decode"),
        ({"url": "http://api.example.com", "timeout_ms": -1}, "arg_decode"),
        ({"url": "http://api.example.com", "timeout_ms": True}, "arg_decode"),
        ({"url": "http://api.example.com", "proxy": "x"}, "arg_decode"),
        ({"url": "ftp://api.example.com"}, "invalid_url"),
        ({"url": "http://u:p@api.example.com"}, "invalid_url"),
        ({"url": "http://api.example.com", "headers": {"Host": "x"}}, "invalid_header"),
        ({"url": "http://api.example.com", "headers": {"X": "a\r\nY: b"}}, "invalid_header"),
        ({"url": "http://api.example.com", "method": "CONNECT"}, "invalid_method"),
    ],
)
async def test_a_bad_request_is_told_and_sent_nowhere(
    database_urls: DatabaseUrls, request_: dict[str, Any], code: str | None
) -> None:
    async with outside(echo) as server, workshop_with_web(database_urls, server.port, enforce=True) as plane:
        (answer,) = await answers(plane, request_)
    assert answer["success"] is False
    assert code is None or answer["error"]["code"] == code
    assert server.connections == 0


async def test_a_slow_server_ends_the_request_before_the_guest(database_urls: DatabaseUrls) -> None:
    async def never(_: Received) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with outside(never) as server, workshop_with_web(database_urls, server.port, enforce=True) as plane:
        url = server.url(host="api.example.com")
        (answer,) = await answers(plane, {"url": url, "timeout_ms": 50})
    assert answer["error"]["code"] == "timeout"


async def test_a_response_that_is_too_large_is_an_error_and_no_trap(database_urls: DatabaseUrls) -> None:
    async with (
        outside(lambda _: reply(body=b"x" * (5 * 1_048_576 + 1))) as server,
        workshop_with_web(database_urls, server.port, enforce=True) as plane,
    ):
        (answer,) = await answers(plane, {"url": server.url(host="api.example.com")})
    assert answer["error"]["code"] == "payload_too_large"


def counted(plane: Plane, mode: str) -> float | None:
    labels = {"addon": "workshop", "kind": "http:fetch", "mode": mode}
    return plane.app.metrics.registry.get_sample_value("metacore_capability_violations_total", labels)


async def test_names_are_looked_up_on_the_account_of_the_addon(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts: list[str] = []

    class Accounted(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            accounts.append(owner.get())
            return await super().__call__(host, port)

    monkeypatch.setitem(globals(), "Names", Accounted)
    async with outside(echo) as server, workshop_with_web(database_urls, server.port, enforce=True) as plane:
        (answer,) = await answers(plane, {"url": server.url(host="api.example.com")})
    assert answer["success"]
    assert accounts == ["workshop"]
