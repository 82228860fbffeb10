"""Credentials of connectors: they go in, are sealed, reach the addon that was granted them, and nobody else."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from tests import workshop
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, Plane, control_plane
from tests.guests.script import host, script
from tests.names import Names
from tests.outside import Received, outside, reply

from metacore.addons.invocation import Handler, Invocation, Result
from metacore.capabilities.access import Mode
from metacore.db.database import Database
from metacore.egress.broker import EgressConfig
from metacore.errors import NotFound, Refused
from metacore.orm.tables import ConnectorCredentials

PLACE = "/api/metacore/installations/workshop/connectors"
TOKEN = "t0k3n-that-nobody-may-see"
BANK: dict[str, Any] = {
    "key": "bank",
    "label": "Bank",
    "auth": "bearer",
    "credentials": [
        {"key": "token", "type": "secret", "required": True},
        {"key": "region", "type": "string", "default_value": "eu"},
        {"key": "retries", "type": "number"},
    ],
    "test_export": "run",
}
OPEN: dict[str, Any] = {"key": "open.data", "auth": "none"}


@asynccontextmanager
async def connected(
    urls: DatabaseUrls, *connectors: dict[str, Any], granted: tuple[str, ...] = ("bank",), port: int = 0, **changes: Any
) -> AsyncIterator[Plane]:
    """Ada's and Eve's organizations have an addon with these connectors; `granted` may be read."""
    capabilities = [{"kind": "connector:read", "target": key} for key in granted]
    if port:
        capabilities.append({"kind": "http:fetch", "target": f"api.example.com:{port}"})
    egress = replace(EgressConfig.parse([f"127.0.0.1:{port or 1}"]), resolver=Names(api_example_com=[["127.0.0.1"]]))
    manifest = workshop.workshop_manifest(connectors=list(connectors or (BANK, OPEN)), capabilities=capabilities)
    async with control_plane(urls, egress=egress, **changes) as plane:
        await workshop.install(plane, plane.ada, plane.eve, manifest=manifest)
        yield plane


async def organization(plane: Plane, headers: Headers) -> uuid.UUID:
    me = await plane.client.get("/api/auth/me", headers=headers)
    return uuid.UUID(me.json()["data"]["user"]["organization_id"])


async def put(plane: Plane, headers: Headers, values: Any, connector: str = "bank") -> Any:
    return await plane.client.put(f"{PLACE}/{connector}", json=values, headers=headers)


async def run(
    plane: Plane, headers: Headers, *steps: bytes, handler: Handler | None = None, payload: Any = None
) -> Result:
    return await plane.app.runner.run(
        Invocation(
            "workshop",
            await organization(plane, headers),
            "action",
            "tests",
            handler or Handler("wasm", "run"),
            payload if payload is not None else script(*steps),
            caller="tests",
        )
    )


async def test_credentials_go_in_and_never_come_out(database_urls: DatabaseUrls, owner_db: Database) -> None:
    async with connected(database_urls) as plane:
        written = await put(plane, plane.ada, {"token": TOKEN, "retries": 3})
        assert written.status_code == 200, written.text
        listed = await plane.client.get(PLACE, headers=plane.ada)
        bank, open_data = listed.json()["data"]
        assert (bank["configured"], bank["credentials_set"], bank["testable"]) == (True, ["retries", "token"], True)
        assert (open_data["key"], open_data["configured"], open_data["testable"]) == ("open.data", False, False)
        assert [setting["key"] for setting in bank["definitions"]] == ["token", "region", "retries"]
        assert TOKEN not in written.text + listed.text
        async with owner_db.transaction(None) as connection:
            rows = (await connection.execute(ConnectorCredentials.__table__.select())).all()
        assert len(rows) == 1
        assert TOKEN not in str(rows)
        assert base64.b64encode(TOKEN.encode()).decode() not in str(rows)
        opened = await plane.app._code.outside.credentials.opened(
            await organization(plane, plane.ada), "workshop", "bank"
        )
        assert opened == {"token": TOKEN, "region": "eu", "retries": 3}


async def test_a_change_names_what_changes_and_null_takes_away(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls) as plane:
        await put(plane, plane.ada, {"token": "one", "retries": 3})
        changed = await put(plane, plane.ada, {"retries": None, "region": "us"})
        assert changed.json()["data"]["credentials_set"] == ["region", "token"]
        gone = await plane.client.delete(f"{PLACE}/bank", headers=plane.ada)
        assert gone.json()["data"] == {"key": "bank", "configured": False}
        with pytest.raises(NotFound, match="no credentials yet"):
            await plane.app._code.outside.credentials.opened(await organization(plane, plane.ada), "workshop", "bank")
        assert (await plane.client.delete(f"{PLACE}/bank", headers=plane.ada)).status_code == 200


@pytest.mark.parametrize(
    ("values", "status", "field"),
    [
        ({}, 422, "token"),
        ({"token": ""}, 422, "token"),
        ({"token": None}, 422, "token"),
        ({"token": 5}, 422, "token"),
        ({"token": "a", "retries": "many"}, 422, "retries"),
        ({"token": "a", "unknown": 1}, 422, "unknown"),
        ({"token": "a\x00"}, 422, "token"),
        ({"token": "a" * 70_000}, 422, "token"),
        ([], 400, None),
        ("token", 400, None),
    ],
)
async def test_what_cannot_be_credentials_is_refused_by_name(
    database_urls: DatabaseUrls, values: Any, status: int, field: str | None
) -> None:
    async with connected(database_urls) as plane:
        refused = await put(plane, plane.ada, values)
        assert refused.status_code == status, refused.text
        if field is not None:
            assert field in [problem["field"] for problem in refused.json()["errors"]]
            assert "setting" not in refused.json()["message"]
        assert not (await plane.client.get(PLACE, headers=plane.ada)).json()["data"][0]["configured"]


async def test_organizations_do_not_know_of_each_other(database_urls: DatabaseUrls, kernel_db: Database) -> None:
    async with connected(database_urls) as plane:
        await put(plane, plane.ada, {"token": TOKEN})
        hers = (await plane.client.get(PLACE, headers=plane.eve)).json()["data"]
        assert not any(connector["configured"] for connector in hers)
        assert (await plane.client.delete(f"{PLACE}/bank", headers=plane.eve)).status_code == 200
        answer = await run(plane, plane.eve, host("connector_get", "bank"))
        assert answer.data[0]["error"]["code"] == "not_configured"
        # Row-level security says the same to whoever asks the database as the kernel.
        eve, ada = await organization(plane, plane.eve), await organization(plane, plane.ada)
        async with kernel_db.transaction(eve) as connection:
            assert (await connection.execute(ConnectorCredentials.__table__.select())).all() == []
        async with kernel_db.transaction(ada) as connection:
            assert len((await connection.execute(ConnectorCredentials.__table__.select())).all()) == 1
        still = await plane.client.get(PLACE, headers=plane.ada)
        assert still.json()["data"][0]["configured"]


async def test_who_may_not_change_settings_may_not_touch_credentials(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls) as plane:
        made = await plane.client.post(
            "/api/users",
            json={"name": "bob", "email": "bob@example.com", "password": "correct horse battery", "role": "agent"},
            headers=plane.ada,
        )
        assert made.status_code == 201
        logged_in = await plane.client.post(
            "/api/auth/login", json={"email": "bob@example.com", "password": "correct horse battery"}
        )
        bob = {"Authorization": f"Bearer {logged_in.json()['data']['token']}"}
        for method, path in (("GET", PLACE), ("PUT", f"{PLACE}/bank"), ("DELETE", f"{PLACE}/bank")):
            assert (await plane.client.request(method, path, headers=bob, json={"token": "x"})).status_code == 403
            assert (await plane.client.request(method, path, json={"token": "x"})).status_code == 401
        assert (await plane.client.post(f"{PLACE}/bank/test", headers=bob)).status_code == 403


async def test_unknown_connectors_and_addons_are_404(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls) as plane:
        assert (await put(plane, plane.ada, {}, connector="other")).status_code == 404
        nowhere = "/api/metacore/installations/nowhere/connectors"
        assert (await plane.client.get(nowhere, headers=plane.ada)).status_code == 404
        assert (await plane.client.post(f"{PLACE}/open.data/test", headers=plane.ada)).status_code == 404
        assert (await plane.client.post(f"{PLACE}/bank/test", headers=plane.ada)).status_code == 404


async def test_without_a_master_key_nothing_is_kept(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls, master_key=None) as plane:
        refused = await put(plane, plane.ada, {"token": TOKEN})
        assert (refused.status_code, refused.json()["code"]) == (501, "no_master_key")


async def test_a_guest_reads_its_credentials_under_its_capability(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls, granted=("bank",), enforce=True) as plane:
        await put(plane, plane.ada, {"token": TOKEN})
        answers = await run(plane, plane.ada, host("connector_get", "bank"), host("connector_get", "open.data"))
        assert _json(answers.data[0]) == {"token": TOKEN, "region": "eu", "retries": None}
        assert answers.data[1]["error"]["code"] == "forbidden"
        await plane.app.enforcement.modes.ask(Mode.SHADOW, "tests")
        shadow = await run(plane, plane.ada, host("connector_get", "open.data"), host("connector_get", "nobody"))
        assert _json(shadow.data[0]) == {}
        assert shadow.data[1]["error"]["code"] == "unknown_connector"


async def test_the_addons_own_function_says_whether_credentials_work(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls) as plane:
        await put(plane, plane.ada, {"token": TOKEN})
        # The guest of these tests does what its request says, and this one says nothing that it understands.
        told = await plane.client.post(f"{PLACE}/bank/test", headers=plane.ada)
        assert told.status_code == 200, told.text
        outcome = told.json()["data"]
        bank = (await plane.client.get(PLACE, headers=plane.ada)).json()["data"][0]
        assert bank["tested_at"] is not None
        assert (bank["test_error"] == "") is outcome["passed"]
        await put(plane, plane.ada, {"token": "another"})
        bank = (await plane.client.get(PLACE, headers=plane.ada)).json()["data"][0]
        assert (bank["tested_at"], bank["test_error"]) == (None, "")


async def test_a_test_by_a_function_of_the_host_tells_what_it_found(database_urls: DatabaseUrls) -> None:
    manifest_connector = {**BANK, "test_export": "check"}
    async with connected_compiled(database_urls, manifest_connector) as plane:
        await put(plane, plane.ada, {"token": TOKEN})
        ada = await organization(plane, plane.ada)

        async def check(call: Any) -> Any:
            opened = await plane.app._code.outside.credentials.opened(call.organization_id, "workshop", "bank")
            assert (call.payload, call.organization_id) == ({"connector": "bank"}, ada)
            if opened["token"] != TOKEN:
                raise Refused("the bank does not know this token", code="unknown_token")

        plane.app.functions.register("workshop", "check", check)
        passed = (await plane.client.post(f"{PLACE}/bank/test", headers=plane.ada)).json()["data"]
        assert passed == {"passed": True, "code": "", "message": ""}
        await put(plane, plane.ada, {"token": "wrong"})
        failed = (await plane.client.post(f"{PLACE}/bank/test", headers=plane.ada)).json()["data"]
        assert failed == {"passed": False, "code": "unknown_token", "message": "the bank does not know this token"}
        bank = (await plane.client.get(PLACE, headers=plane.ada)).json()["data"][0]
        assert bank["test_error"] == "the bank does not know this token"


@asynccontextmanager
async def connected_compiled(urls: DatabaseUrls, connector: dict[str, Any]) -> AsyncIterator[Plane]:
    """The same without a module: functions are the host's."""
    manifest = workshop.workshop_manifest(connectors=[connector], contributions={})
    del manifest["backend"]
    async with control_plane(urls) as plane:
        await workshop.install(plane, plane.ada, manifest=manifest)
        yield plane


@pytest.mark.parametrize(
    ("connector", "values", "header", "value"),
    [
        ({"auth": "bearer"}, {"token": "t"}, "authorization", "Bearer t"),
        ({"auth": "basic"}, {"username": "u", "password": "p:w"}, "authorization", "Basic dTpwOnc="),
        ({"auth": "api_key"}, {"api_key": "k"}, "x-api-key", "k"),
        ({"auth": "api_key", "header": "X-Bank"}, {"api_key": "k"}, "x-bank", "k"),
    ],
)
async def test_a_handler_of_kind_connector_sends_with_its_credentials(
    database_urls: DatabaseUrls, connector: dict[str, Any], values: dict[str, str], header: str, value: str
) -> None:
    async with outside(lambda _: reply(body=b'{"success": true, "data": {"paid": 1}}')) as server:
        declared = {
            "key": "bank",
            "base_url": server.url("/v1", host="api.example.com"),
            "credentials": [{"key": key, "type": "secret"} for key in values],
            **connector,
        }
        async with connected(database_urls, declared, port=server.port, enforce=True) as plane:
            await put(plane, plane.ada, values)
            result = await run(
                plane, plane.ada, handler=Handler("connector", "bank", "/payments"), payload={"amount": 5}
            )
    assert result == Result(success=True, data={"paid": 1})
    (got,) = server.received
    assert (got.path, orjson.loads(got.body), got.headers[header]) == ("/v1/payments", {"amount": 5}, value)


async def test_a_connector_goes_nowhere_that_was_not_granted(database_urls: DatabaseUrls) -> None:
    async with outside(lambda _: reply(302, Location="http://10.0.0.1/")) as server:
        bank = {**BANK, "base_url": server.url(host="api.example.com")}
        async with connected(database_urls, bank, granted=(), port=server.port, enforce=True) as plane:
            await put(plane, plane.ada, {"token": TOKEN})
            handler = Handler("connector", "bank", "/x")
            with pytest.raises(Exception, match="connector:read"):
                await run(plane, plane.ada, handler=handler, payload={})
            assert server.received == []
            await plane.app.enforcement.modes.ask(Mode.SHADOW, "tests")
            with pytest.raises(Exception, match="may not be reached"):
                await run(plane, plane.ada, handler=handler, payload={})
    assert len(server.received) == 1


async def test_what_the_service_says_is_told_when_it_refuses(database_urls: DatabaseUrls) -> None:
    def answer(got: Received) -> bytes:
        return reply(402, b'{"reason": "empty"}') if got.path == "/pay" else reply(body=b"plain text")

    async with outside(answer) as server:
        bank = {**BANK, "base_url": server.url("", host="api.example.com")}
        async with connected(database_urls, bank, port=server.port, enforce=True) as plane:
            await put(plane, plane.ada, {"token": TOKEN})
            refused = await run(plane, plane.ada, handler=Handler("connector", "bank", "/pay"), payload={})
            assert (refused.success, refused.code, refused.data) == (False, "connector_failed", {"reason": "empty"})
            assert refused.message == "bank answered 402"
            plain = await run(plane, plane.ada, handler=Handler("connector", "", "/other"), payload={})
            assert (plain.success, plain.data) == (True, "plain text")


async def test_a_function_of_the_addon_runs_with_the_name_of_its_connector(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls) as plane:
        result = await run(plane, plane.ada, handler=Handler("connector", "bank.echo"), payload={"amount": 5})
        assert result.data == {"amount": 5, "connector": "bank"}
        result = await run(plane, plane.ada, handler=Handler("connector", "open.data.echo"), payload={})
        assert result.data == {"connector": "open.data"}
        with pytest.raises(NotFound, match="no connector"):
            await run(plane, plane.ada, handler=Handler("connector", "nobody.echo"), payload={})


async def test_credentials_go_away_with_the_installation(database_urls: DatabaseUrls, owner_db: Database) -> None:
    async with connected(database_urls) as plane:
        await put(plane, plane.ada, {"token": TOKEN})
        await put(plane, plane.eve, {"token": TOKEN})
        async with plane.working():
            gone = await plane.client.delete("/api/metacore/installations/workshop", headers=plane.ada)
            assert gone.status_code == 200, gone.text
        eve = await organization(plane, plane.eve)
        async with owner_db.transaction(None) as connection:
            rows = (await connection.execute(ConnectorCredentials.__table__.select())).all()
        assert [row.organization_id for row in rows] == [eve]


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value
