"""Signed calls to the backend of an addon: what it gets, which secret signs, and where a call may go."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.outside import Outside, Received, outside, reply
from tests.tickets import make_bundle, signed, tickets_manifest

from metacore.addons.backend_call import BackendCall, BackendCaller
from metacore.addons.egress import AddonEgress
from metacore.addons.guest_context import GuestContext
from metacore.addons.installation_secrets import InstallationSecrets
from metacore.capabilities.access import Mode
from metacore.egress.broker import EgressConfig
from metacore.errors import MetacoreError, NotFound, NotWired, PermissionDenied, Refused, Unavailable
from metacore.secrets import Sealer

LOOPBACK = EgressConfig.parse(["127.0.0.0/8"])


@dataclass
class World:
    plane: Plane
    caller: BackendCaller
    secrets: dict[uuid.UUID, bytes]
    ada: uuid.UUID
    eve: uuid.UUID

    def who(self, organization: uuid.UUID | None = None) -> GuestContext:
        return GuestContext("tickets", organization or self.ada, "tests")

    def call(self, url: str = "", **more: Any) -> BackendCall:
        return BackendCall(self.plane.app.registry.snapshot.addons["tickets"].manifest, url, **more)

    async def refused(self, call: BackendCall, who: GuestContext | None = None) -> MetacoreError:
        with pytest.raises(MetacoreError) as caught:
            await self.caller.call(who or self.who(), call)
        return caught.value


@asynccontextmanager
async def world(urls: DatabaseUrls, backend: str, *, sealer: bool = True, **changes: Any) -> AsyncIterator[World]:
    """Ada's and Eve's organizations have an addon whose backend is at `backend`."""
    content, signature = signed(make_bundle(tickets_manifest(backend={"runtime": "webhook", "url": backend})))
    async with control_plane(urls, egress=LOOPBACK, **changes) as plane, plane.working():
        secrets = {}
        organizations = []
        for headers in (plane.ada, plane.eve):
            organization = await organization_of(plane, headers)
            answer = (await plane.install(headers, content, signature)).json()
            secrets[organization] = bytes.fromhex(answer["install_secret"])
            organizations.append(organization)
        app = plane.app
        key = app.config.master_key
        opener = InstallationSecrets(app.database, Sealer(key) if key and sealer else None)
        caller = BackendCaller(AddonEgress(app.outbound, app.enforcer), opener)
        yield World(plane, caller, secrets, *organizations)


async def organization_of(plane: Plane, headers: Headers) -> uuid.UUID:
    me = await plane.client.get("/api/auth/me", headers=headers)
    return uuid.UUID(me.json()["data"]["user"]["organization_id"])


def expected_signature(secret: bytes, got: Received) -> str:
    """Computed here once more, from contract 15 alone."""
    digest = hashlib.sha256(got.body).hexdigest()
    path = got.path.split("?")[0]
    text = f"{got.headers['x-metacore-timestamp']}.{got.method}.{path}.{got.headers['x-metacore-nonce']}.{digest}"
    return "sha256=" + hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


async def test_each_organization_signs_with_its_own_secret(database_urls: DatabaseUrls) -> None:
    async with (
        outside(lambda _: reply(body=b'{"success": true, "data": {"a": 1}}')) as server,
        world(database_urls, server.url("/base/")) as there,
    ):
        identifier = uuid.uuid4()
        for organization in (there.ada, there.eve):
            call = there.call("/hooks/remind?x=1", body=b'{"a":1}', event="tickets::remind", id=identifier)
            answer = await there.caller.call(there.who(organization), call)
            assert (answer.succeeded, answer.value) == (True, {"success": True, "data": {"a": 1}})
        installed = there.plane.app.registry.snapshot.installed
    for organization, got in zip((there.ada, there.eve), server.received, strict=True):
        assert (got.method, got.path, got.body) == ("POST", "/base/hooks/remind?x=1", b'{"a":1}')
        assert got.headers["x-metacore-signature"] == expected_signature(there.secrets[organization], got)
        assert abs(time.time() - int(got.headers["x-metacore-timestamp"])) < 60
        assert got.headers["x-metacore-installation-id"] == str(installed[organization]["tickets"].installation_id)
        assert got.headers["x-metacore-event"] == "tickets::remind"
        assert got.headers["x-metacore-invocation-id"] == str(identifier)
        assert got.headers["content-type"] == "application/json"
    nonces = [got.headers["x-metacore-nonce"] for got in server.received]
    assert len(set(nonces)) == 2
    assert there.secrets[there.ada] != there.secrets[there.eve]


async def test_the_backend_needs_no_capability_and_everybody_else_does(database_urls: DatabaseUrls) -> None:
    async with (
        outside(lambda _: reply()) as server,
        outside(lambda _: reply()) as other,
        world(database_urls, server.url(), enforce=True) as there,
    ):
        assert (await there.caller.call(there.who(), there.call())).value is None
        error = await there.refused(there.call(other.url("/x")))
        assert (type(error), error.code) == (PermissionDenied, "forbidden")
        # In shadow the same goes through, and is recorded.
        await there.plane.app.enforcement.modes.ask(Mode.SHADOW, "tests")
        assert (await there.caller.call(there.who(), there.call(other.url("/x")))).status == 200
    assert (len(server.received), len(other.received)) == (1, 1)


async def test_a_redirect_is_an_answer_and_the_signature_goes_nowhere_else(database_urls: DatabaseUrls) -> None:
    async with (
        outside(lambda _: reply()) as other,
        outside(lambda _: reply(307, Location=other.url())) as server,
        world(database_urls, server.url()) as there,
    ):
        answer = await there.caller.call(there.who(), there.call())
    assert (answer.status, answer.succeeded, other.received) == (307, False, [])


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::1]:1/"])
async def test_no_manifest_leads_into_the_network_of_the_kernel(database_urls: DatabaseUrls, url: str) -> None:
    async with world(database_urls, url) as there:
        error = await there.refused(there.call())
        assert error.code == "blocked_address"
        violations = there.plane.app.metrics.render().decode()
    assert 'metacore_capability_violations_total{addon="tickets",kind="http:fetch"' in violations


async def test_what_the_backend_answers_is_json_or_an_error(database_urls: DatabaseUrls) -> None:
    said: dict[str, bytes] = {
        "/html": reply(body=b"<html>"),
        "/oops": reply(500, b"<html>"),
        "/no": reply(422, b'{"error": {"code": "late"}}'),
        "/large": reply(body=b'"' + b"x" * (4 * 1_048_576) + b'"'),
    }
    async with outside(lambda got: said[got.path]) as server, world(database_urls, server.url("")) as there:
        error = await there.refused(there.call("/html"))
        assert (type(error), error.code) == (Unavailable, "invalid_reply")
        oops = await there.caller.call(there.who(), there.call("/oops"))
        assert (oops.status, oops.value) == (500, None)
        no = await there.caller.call(there.who(), there.call("/no"))
        assert (no.succeeded, no.value) == (False, {"error": {"code": "late"}})
        assert (await there.refused(there.call("/large"))).code == "response_too_large"


async def test_without_a_secret_nothing_is_sent(database_urls: DatabaseUrls) -> None:
    server: Outside
    async with outside(lambda _: reply()) as server, world(database_urls, server.url(), sealer=False) as there:
        error = await there.refused(there.call())
        assert (type(error), error.code) == (NotWired, "no_master_key")
        stranger = GuestContext("tickets", uuid.uuid4(), "tests")
        assert type(await there.refused(there.call(), stranger)) is NotFound
    assert server.connections == 0


async def test_an_installation_made_without_master_key_says_so(database_urls: DatabaseUrls) -> None:
    async with outside(lambda _: reply()) as server, world(database_urls, server.url(), master_key=None) as there:
        opener = InstallationSecrets(there.plane.app.database, Sealer(b"k" * 32))
        caller = BackendCaller(AddonEgress(there.plane.app.outbound, there.plane.app.enforcer), opener)
        with pytest.raises(NotWired, match="rotate it"):
            await caller.call(there.who(), there.call())
    assert server.connections == 0


async def test_an_addon_without_backend_cannot_be_called_by_path(database_urls: DatabaseUrls) -> None:
    async with world(database_urls, "/relative") as there:
        for url in ("", "/x"):
            error = await there.refused(there.call(url))
            assert (type(error), error.code) == (Refused, "no_backend")


async def test_a_secret_shows_in_no_repr(database_urls: DatabaseUrls) -> None:
    async with world(database_urls, "/relative") as there:
        opener = InstallationSecrets(there.plane.app.database, Sealer(there.plane.app.config.master_key or b""))
        opened = await opener.of(there.ada, "tickets")
    assert opened.secret == there.secrets[there.ada]
    assert orjson.dumps(repr(opened.secret))[1:-1] not in orjson.dumps(repr(opened))
