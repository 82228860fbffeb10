"""Contract 16 over HTTP: a kernel on its own role, and a worker on the owner's that does what tenants ask for."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.applications import PASSWORD
from tests.conftest import DatabaseUrls
from tests.control_plane import FRONTEND, Headers, Plane, control_plane
from tests.served import serving
from tests.tickets import SIGNING_KEY, make_bundle, signed, tickets_manifest

from metacore.api import addons, uploads
from metacore.bundle.signature import sign
from metacore.orm.tables import Addon, AddonRequest, Installation
from metacore.version import __version__

BASE = "/api/metacore"


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        yield opened


@pytest.fixture
async def installed(plane: Plane) -> AsyncIterator[Plane]:
    """Ada's organization has the addon, Eve's has not; a worker runs."""
    async with plane.working():
        reply = await plane.install(plane.ada)
        assert reply.status_code == 201, reply.text
        yield plane


async def new_user(plane: Plane, email: str, role: str, *capabilities: str) -> Headers:
    """A user of Ada's organization, whose role may do these things."""
    made = await plane.client.post(
        "/api/users", json={"name": role, "email": email, "password": PASSWORD, "role": role}, headers=plane.ada
    )
    assert made.status_code == 201, made.text
    for capability in capabilities:
        granted = await plane.client.put(f"/api/permissions/roles/{role}/{capability}", headers=plane.ada)
        assert granted.is_success, granted.text
    logged_in = await plane.client.post("/api/auth/login", json={"email": email, "password": PASSWORD})
    return {"Authorization": f"Bearer {logged_in.json()['data']['token']}"}


async def test_an_installation_answers_as_the_contract_says_and_is_live_at_once(plane: Plane) -> None:
    before = await plane.client.get("/api/dynamic/tickets", headers=plane.ada)
    assert before.status_code == 404
    async with plane.working():
        reply = await plane.install(plane.ada)
    assert reply.status_code == 201
    body = reply.json()
    assert body.keys() >= {"success", "source", "installation", "install_secret", "manifest"}
    assert (body["success"], body["source"]) == (True, "bundle")
    assert body["manifest"] == tickets_manifest()
    assert body["installation"]["addon_key"] == "tickets"
    assert (body["installation"]["version"], body["installation"]["status"]) == ("1.0.0", "enabled")
    assert len(bytes.fromhex(body["install_secret"])) == 32

    created = await plane.client.post("/api/dynamic/Ticket", json={"title": "Printer"}, headers=plane.ada)
    assert created.status_code == 201
    assert (await plane.client.get("/api/dynamic/Ticket", headers=plane.eve)).status_code == 404


@pytest.mark.parametrize("as_file", [False, True])
async def test_the_signature_comes_as_field_or_as_file(plane: Plane, as_file: bool) -> None:
    content, signature = signed(make_bundle(tickets_manifest()))
    async with plane.working():
        reply = await plane.install(plane.ada, content, signature, as_file=as_file)
    assert (reply.status_code, reply.json().get("code")) == (201, None)


async def test_reading_is_bare_or_enveloped_as_the_contract_says(installed: Plane) -> None:
    client, ada, eve = installed.client, installed.ada, installed.eve
    for path in ("manifests", "navigation"):
        assert (await client.get(f"{BASE}/{path}")).json() == []
        assert (await client.get(f"{BASE}/{path}", headers=eve)).json() == []
    assert (await client.get(f"{BASE}/manifests", headers=ada)).json() == [tickets_manifest()]

    catalog = (await client.get(f"{BASE}/catalog", headers=ada)).json()
    assert catalog["success"] is True
    assert catalog["data"]["total"] == 1
    (item,) = catalog["data"]["items"]
    assert item == {
        "manifest": tickets_manifest(),
        "installable": True,
        "entitled": True,
        "installed": True,
        "enabled": True,
        "version": "1.0.0",
    }
    (foreign,) = (await client.get(f"{BASE}/catalog", headers=eve)).json()["data"]["items"]
    assert (foreign["installed"], foreign["enabled"]) == (False, False)
    assert (await client.get(f"{BASE}/catalog")).status_code == 401
    assert (await client.get(f"{BASE}/mode", headers=ada)).json()["data"]["mode"] == "shadow"


async def test_the_menu_follows_what_is_installed_and_enabled(plane: Plane) -> None:
    entry = {"title": "Tickets", "url": "/tickets", "icon": "ticket", "model": "Ticket"}
    manifest = tickets_manifest(contributions={"navigation": [{"title": "Help desk", "items": [entry]}]})
    url = f"{BASE}/navigation"
    async with plane.working():
        assert (await plane.install(plane.ada, *signed(make_bundle(manifest)))).status_code == 201
        (group,) = (await plane.client.get(url, headers=plane.ada)).json()
        assert (group["title"], [item["owner"] for item in group["items"]]) == ("Help desk", ["addon:tickets"])
        assert (await plane.client.get(url, headers=plane.eve)).json() == []
        await plane.client.post(f"{BASE}/installations/tickets/disable", headers=plane.ada)
        assert (await plane.client.get(url, headers=plane.ada)).json() == []
        assert (await plane.client.get(f"{BASE}/manifests", headers=plane.ada)).json() == []


async def test_every_reply_of_the_room_tells_the_kernels_version(plane: Plane) -> None:
    some = str(uuid.uuid4())
    for method, path, status in (
        ("GET", "manifests", 200),
        ("GET", "navigation", 200),
        ("GET", "catalog", 200),
        ("GET", "mode", 200),
        ("PATCH", "catalog", 405),
        ("POST", "installations/tickets", 400),
        ("GET", "installations/tickets/settings", 404),
        ("GET", f"requests/{some}", 404),
        ("GET", "requests/nonsense", 400),
        ("GET", "addons/tickets/frontend/remoteEntry.js", 404),
    ):
        reply = await plane.client.request(method, f"{BASE}/{path}", headers=plane.ada)
        assert (reply.status_code, reply.headers.get("x-metacore-kernel-version")) == (status, __version__), path
        refused = await plane.client.request(method, f"{BASE}/{path}", headers={"Authorization": "Bearer no"})
        assert refused.headers.get("x-metacore-kernel-version") == __version__


async def test_the_bundle_must_be_the_one_that_the_url_names(plane: Plane) -> None:
    reply = await plane.install(plane.ada, key="billing")
    assert (reply.status_code, reply.json()["code"]) == (400, "wrong_key")
    assert "tickets" in reply.json()["message"]
    assert await requests_of(plane) == 0


async def requests_of(plane: Plane) -> int:
    async with plane.owner.engine.connect() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(AddonRequest))).scalar_one())


async def test_what_does_not_verify_is_422_with_its_reason(plane: Plane) -> None:
    content, signature = signed(make_bundle(tickets_manifest()))
    other = make_bundle(tickets_manifest(version="1.0.1"))
    stranger = type(SIGNING_KEY).generate()
    async with plane.working():
        for bundle, given, code in (
            (content, None, "unsigned"),
            (other, signature, "digest_mismatch"),
            (content, sign(content, stranger), "untrusted"),
            (content, signature.model_copy(update={"algorithm": "rsa"}), "algorithm"),
            (content, signature.model_copy(update={"value": "ab" * 64}), "untrusted"),
        ):
            reply = await plane.install(plane.ada, bundle, given)
            assert (reply.status_code, reply.json()["code"], reply.json()["success"]) == (422, code, False)
    assert (await plane.client.get("/api/dynamic/Ticket", headers=plane.ada)).status_code == 404


async def test_what_is_no_bundle_is_refused_before_a_request_is_written(plane: Plane) -> None:
    content, _ = signed(make_bundle(tickets_manifest()))
    invalid = make_bundle(tickets_manifest(models=[{"key": "Ticket", "table": "1; DROP TABLE users"}]))
    for bundle, status in ((b"", 422), (b"PK\3\4 a zip", 422), (content[:200], 422), (invalid, 400)):
        reply = await plane.install(plane.ada, bundle)
        assert (reply.status_code, reply.json()["success"]) == (status, False), reply.text
        assert reply.json()["code"]
    assert "manifest.models[0].table" in (await plane.install(plane.ada, invalid)).text
    assert await requests_of(plane) == 0


async def test_a_signature_that_is_none_is_400(plane: Plane) -> None:
    content, _ = signed(make_bundle(tickets_manifest()))
    texts = ("{", "[]", "nonsense", '{"algorithm": 1}', "\x00", '{"digest": []}', "[" * 5000)
    for text, as_file in itertools.product(texts, (False, True)):
        reply = await plane.install(plane.ada, content, text, as_file=as_file)
        assert (reply.status_code, reply.json()["code"]) == (400, "malformed")


async def test_forms_that_cannot_be_read_are_400(plane: Plane) -> None:
    url = f"{BASE}/installations/tickets"
    part = b'--x\r\nContent-Disposition: form-data; name="bundle"; filename="b"\r\n\r\nabc'
    many = b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nv\r\n' % n for n in range(40))
    for body, kind, code in (
        (b"", "application/json", "invalid_form"),
        (b"{}", "application/gzip", "invalid_form"),
        (b"bundle=1", "application/x-www-form-urlencoded", "invalid_form"),
        (b"", "multipart/form-data", "invalid_form"),
        (b"anything", "multipart/form-data; boundary=x", "invalid_form"),
        (part, "multipart/form-data; boundary=", "invalid_form"),
        (part + b"\r\n--x--\r\n", "multipart/form-data; boundary=x; charset=nonsense", "not_gzip"),
        (many + b"--x--\r\n", "multipart/form-data; boundary=x", "invalid_form"),
        (b'--x\r\nContent-Disposition: form-data; name="bundle"\r\n\r\ntext\r\n--x--\r\n',
         "multipart/form-data; boundary=x", "bundle_required"),
        (b'--x\r\nContent-Disposition: nonsense\r\n\r\ntext\r\n--x--\r\n',
         "multipart/form-data; boundary=x", "invalid_form"),
    ):  # fmt: skip
        reply = await plane.client.post(url, content=body, headers={**plane.ada, "Content-Type": kind})
        expected = 422 if code == "not_gzip" else 400
        assert (reply.status_code, reply.json()["code"]) == (expected, code), (body, kind, reply.text)


async def test_a_bundle_over_the_limit_is_413_however_it_is_sent(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls, max_upload_bytes=20_000) as plane:
        big = b"x" * 30_000
        whole = await plane.install(plane.ada, big)
        assert (whole.status_code, whole.json()["success"]) == (413, False)

        async def chunks() -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="bundle"; filename="b"\r\n\r\n'
            for _ in range(30):
                yield b"x" * 1_000
            yield b"\r\n--x--\r\n"

        streamed = await plane.client.post(
            f"{BASE}/installations/tickets",
            content=chunks(),
            headers={**plane.ada, "Content-Type": "multipart/form-data; boundary=x"},
        )
        assert (streamed.status_code, streamed.json()["success"]) == (413, False)
        assert await requests_of(plane) == 0


async def test_a_caller_who_may_not_install_is_refused_before_the_body_is_read(plane: Plane) -> None:
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        # The transport of these tests asks for a chunk when the application does.
        nonlocal asked
        asked += 1
        yield b"x" * 1_000_000

    agent = await new_user(plane, "bob@example.com", "agent")
    for headers, status in (({}, 401), ({"Authorization": "Bearer no"}, 401), (agent, 403)):
        reply = await plane.client.post(
            f"{BASE}/installations/tickets",
            content=body(),
            headers={**headers, "Content-Type": "multipart/form-data; boundary=x"},
        )
        assert reply.status_code == status
    assert asked == 0


async def test_a_bundle_waits_for_its_slot_before_its_body_is_read(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addons, "UPLOAD_WAIT_SECONDS", 0.05)
    # Whatever trickles in holds none of these.
    monkeypatch.setattr(addons, "UPLOADS", 1)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    asked: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body(who: str) -> AsyncIterator[bytes]:
        # The transport of these tests asks for a chunk when the application does.
        asked.append(who)
        yield b'--x\r\nContent-Disposition: form-data; name="bundle"; filename="b"\r\n\r\n'
        begun.set()
        await go_on.wait()
        yield b"no archive\r\n--x--\r\n"

    async with control_plane(database_urls) as plane, plane.working():
        url = f"{BASE}/installations/tickets"
        first = asyncio.create_task(plane.client.post(url, content=body("ada"), headers={**plane.ada, **kind}))
        await begun.wait()
        refused = await plane.client.post(url, content=body("ada again"), headers={**plane.ada, **kind})
        assert (refused.status_code, refused.json()["code"]) == (429, "uploads_busy")
        assert refused.headers["retry-after"] == "10"
        assert asked == ["ada"]
        assert (await plane.install(plane.eve)).status_code == 201, "another organization has its own slot"
        go_on.set()
        assert (await first).json()["code"] == "not_gzip"
        assert (await plane.install(plane.ada)).status_code == 201
        monkeypatch.setattr(uploads, "RECEIVE_SECONDS", 0.05)
        go_on.clear()
        slow = await plane.client.post(url, content=body("ada"), headers={**plane.ada, **kind})
        assert (slow.status_code, slow.json()["code"]) == (408, "too_slow")
        assert slow.json()["message"] == "the bundle comes too slowly: it has 0.05 seconds"


async def test_no_more_bundles_come_at_once_than_the_disk_has_room_for(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addons, "UPLOAD_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(addons, "RECEIVED_AT_ONCE", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"--x--\r\n"

    async with control_plane(database_urls) as plane, plane.working():
        headers = {**plane.ada, "Content-Type": "multipart/form-data; boundary=x"}
        slow = asyncio.create_task(plane.client.post(f"{BASE}/installations/tickets", content=body(), headers=headers))
        await begun.wait()
        refused = await plane.install(plane.eve)
        assert (refused.status_code, refused.json()["code"]) == (429, "uploads_busy")
        assert refused.headers["retry-after"] == "10"
        go_on.set()
        assert (await slow).json()["code"] == "bundle_required"
        assert (await plane.install(plane.eve)).status_code == 201


async def test_an_upgrade_that_takes_away_what_others_have_stored_says_which_line_does(plane: Plane) -> None:
    notes = {"0001_notes.sql": "CREATE TABLE notes (organization_id uuid NOT NULL, body text);"}
    less = {**notes, "0002_less.sql": "ALTER TABLE notes\n  DROP COLUMN body;"}
    first, second = (
        signed(make_bundle(tickets_manifest(version=version), files))
        for version, files in (("1.0.0", notes), ("1.1.0", less))
    )
    async with plane.working():
        for who in (plane.ada, plane.eve):
            assert (await plane.install(who, *first)).status_code == 201
        refused = await plane.install(plane.eve, *second)
        assert (refused.status_code, refused.json()["code"]) == (422, "data_at_risk")
        assert refused.json()["errors"] == [
            {
                "field": "migrations/0002_less.sql:1",
                "code": "data_loss",
                "message": "migrations/0002_less.sql:1 drops column notes.body and its values",
            }
        ]
        removed = await plane.client.delete(f"{BASE}/installations/tickets?drop=true", headers=plane.ada)
        assert removed.status_code == 200
        assert (await plane.install(plane.eve, *second)).status_code == 201


async def test_disable_hides_enable_brings_back_with_the_data(installed: Plane) -> None:
    client, ada = installed.client, installed.ada
    await client.post("/api/dynamic/Ticket", json={"title": "Printer"}, headers=ada)
    for word, status in (("disable", 404), ("disable", 404), ("enable", 200), ("enable", 200)):
        reply = await client.post(f"{BASE}/installations/tickets/{word}", headers=ada)
        assert (reply.status_code, reply.json()["success"]) == (200, True)
        installation = reply.json()["data"]["installation"]
        assert installation["status"] == f"{word}d"
        assert installation["installed_at"] < installation[f"{word}d_at"]
        listed = await client.get("/api/dynamic/tickets", headers=ada)
        assert listed.status_code == status
        if word == "disable":
            assert listed.json()["message"] == "model 'Ticket' is not served: addon 'tickets' is disabled"
    assert (await client.get("/api/dynamic/Ticket", headers=ada)).json()["meta"]["total"] == 1


async def test_deleting_keeps_the_data_unless_told_to_drop_it(installed: Plane) -> None:
    client, ada = installed.client, installed.ada
    await client.post("/api/dynamic/Ticket", json={"title": "Printer"}, headers=ada)
    url = f"{BASE}/installations/tickets"
    reply = await client.delete(url, headers=ada)
    assert (reply.status_code, reply.json()["data"]["addon_key"]) == (200, "tickets")
    assert (await client.get("/api/dynamic/Ticket", headers=ada)).status_code == 404
    assert (await client.delete(url, headers=ada)).status_code == 404

    await installed.install(ada)
    assert (await client.get("/api/dynamic/Ticket", headers=ada)).json()["meta"]["total"] == 1
    assert (await client.delete(f"{url}?drop=true", headers=ada)).status_code == 200
    await installed.install(ada)
    assert (await client.get("/api/dynamic/Ticket", headers=ada)).json()["meta"]["total"] == 0
    assert (await client.delete(f"{url}?drop=perhaps", headers=ada)).status_code == 400


async def test_another_organizations_installation_is_out_of_reach(installed: Plane) -> None:
    client, eve = installed.client, installed.eve
    for method, path in (
        ("POST", "installations/tickets/enable"),
        ("POST", "installations/tickets/disable"),
        ("POST", "installations/tickets/secret/rotate"),
        ("DELETE", "installations/tickets?drop=true"),
        ("GET", "installations/tickets/settings"),
        ("PUT", "installations/tickets/settings"),
    ):
        reply = await client.request(method, f"{BASE}/{path}", headers=eve, content=b"{}")
        assert (reply.status_code, reply.json()["success"]) == (404, False), path
    assert (await client.get("/api/dynamic/Ticket", headers=installed.ada)).status_code == 200


async def test_another_organization_cannot_have_an_upgrade_ask_for_more(installed: Plane) -> None:
    more = [*tickets_manifest()["capabilities"], {"kind": "http:fetch", "target": "api.example.com", "reason": "x"}]
    content, signature = signed(make_bundle(tickets_manifest(version="1.1.0", capabilities=more)))
    reply = await installed.install(installed.eve, content, signature)
    body = reply.json()
    assert (reply.status_code, body["success"]) == (422, False), body
    assert "http:fetch api.example.com" in body["message"]
    # The very bundle that is there is hers to have, and changes nothing for Ada.
    row = sa.select(Addon.version, Addon.mode, Addon.grants, Addon.digest)
    async with installed.owner.transaction(None) as connection:
        before = (await connection.execute(row)).one()
        assert before.version == "1.0.0"
    joined = await installed.install(installed.eve)
    assert joined.status_code == 201, joined.text
    async with installed.owner.transaction(None) as connection:
        assert (await connection.execute(row)).one() == before


async def test_keys_that_no_addon_has_are_404(installed: Plane) -> None:
    keys = ("nothing", "Tickets", "tickets%00", "x" * 4_000, "%F0%9F%92%A9", "a'%20OR%201=1--")
    calls = (
        ("POST", "installations/{key}/enable"),
        ("POST", "installations/{key}/disable"),
        ("POST", "installations/{key}/secret/rotate"),
        ("DELETE", "installations/{key}"),
        ("GET", "installations/{key}/settings"),
        ("PUT", "installations/{key}/settings"),
        ("GET", "addons/{key}/frontend/remoteEntry.js"),
    )
    for key, (method, template) in itertools.product(keys, calls):
        path = template.format(key=key)
        reply = await installed.client.request(method, f"{BASE}/{path}", headers=installed.ada, content=b"{}")
        assert (reply.status_code, reply.json()["success"]) == (404, False), path


async def test_settings_are_read_changed_and_taken_back(installed: Plane) -> None:
    client, ada = installed.client, installed.ada
    url = f"{BASE}/installations/tickets/settings"
    data = (await client.get(url, headers=ada)).json()["data"]
    assert [definition["key"] for definition in data["definitions"]] == ["greeting", "token"]
    assert (data["values"], data["secrets_set"]) == ({"greeting": "hi"}, [])

    changed = await client.put(url, json={"greeting": "hello", "token": "hunter2"}, headers=ada)
    assert (changed.json()["data"]["values"], changed.json()["data"]["secrets_set"]) == (
        {"greeting": "hello"},
        ["token"],
    )
    again = await client.get(url, headers=ada)
    assert "hunter2" not in changed.text + again.text
    assert "sealed" not in changed.text + again.text
    async with installed.owner.engine.connect() as connection:
        stored = json.dumps((await connection.execute(sa.select(Installation.settings))).scalar_one())
    assert "hello" in stored
    assert "hunter2" not in stored

    back = await client.put(url, json={"greeting": None, "token": None}, headers=ada)
    assert (back.json()["data"]["values"], back.json()["data"]["secrets_set"]) == ({"greeting": "hi"}, [])


async def test_settings_that_do_not_fit_are_named_and_nothing_is_written(installed: Plane) -> None:
    url = f"{BASE}/installations/tickets/settings"
    cases: tuple[tuple[Any, int, dict[str, str]], ...] = (
        ({"greeting": 7}, 422, {"greeting": "type"}),
        ({"greeting": ["hi"]}, 422, {"greeting": "type"}),
        ({"greeting": "x" * 70_000}, 422, {"greeting": "too_large"}),
        ({"greeting": "a\0b"}, 422, {"greeting": "nul"}),
        ({"nonsense": 1, "greeting": {}}, 422, {"nonsense": "unknown_setting", "greeting": "type"}),
        ({"__proto__": {}, "constructor": 1}, 422, {"__proto__": "unknown_setting", "constructor": "unknown_setting"}),
        ({"token": 5}, 422, {"token": "type"}),
        ([], 400, {}),
        ("greeting", 400, {}),
    )
    for values, status, problems in cases:
        reply = await installed.client.put(url, json=values, headers=installed.ada)
        assert (reply.status_code, reply.json()["success"]) == (status, False)
        assert {item["field"]: item["code"] for item in reply.json().get("errors", [])} == problems
        assert (await installed.client.get(url, headers=installed.ada)).json()["data"]["values"] == {"greeting": "hi"}
    backslash = await installed.client.put(url, json={"greeting": "\\u0000"}, headers=installed.ada)
    assert backslash.json()["data"]["values"] == {"greeting": "\\u0000"}


async def test_a_secret_setting_needs_a_master_key(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls, master_key=None) as plane, plane.working():
        installed = await plane.install(plane.ada)
        # Nobody could seal the installation's secret, so nobody is told one.
        assert (installed.status_code, installed.json()["install_secret"]) == (201, "")
        url = f"{BASE}/installations/tickets/settings"
        refused = await plane.client.put(url, json={"token": "hunter2", "greeting": "hello"}, headers=plane.ada)
        assert (refused.status_code, "hunter2" in refused.text) == (501, False)
        data = (await plane.client.get(url, headers=plane.ada)).json()["data"]
        assert (data["values"], data["secrets_set"]) == ({"greeting": "hi"}, [])


async def test_the_secret_is_told_once_and_never_logged(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with plane.working():
        first = (await plane.install(plane.ada)).json()
        secret = first["install_secret"]
        again = (await plane.install(plane.ada)).json()
        assert again["install_secret"] == ""
        rotated = await plane.client.post(f"{BASE}/installations/tickets/secret/rotate", headers=plane.ada)
    new = rotated.json()["data"]["install_secret"]
    assert rotated.status_code == 200
    assert len(bytes.fromhex(new)) == 32
    assert new != secret

    async with plane.owner.engine.connect() as connection:
        row = (await connection.execute(sa.select(Installation.secret_hash, Installation.secret_enc))).one()
        stored = (await connection.execute(sa.text("SELECT metacore_requests::text FROM metacore_requests"))).scalars()
        everything = "".join(stored)
    assert row.secret_hash == f"sha256:{hashlib.sha256(bytes.fromhex(new)).hexdigest()}"
    for told in (secret, new):
        assert told not in everything
        assert told not in row.secret_enc
        assert told not in caplog.text
        assert told not in "".join(str(vars(record)) for record in caplog.records)


async def test_without_a_worker_the_answer_is_202_and_comes_later(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls, request_wait=0.0) as plane:
        waiting = await plane.install(plane.ada)
        assert (waiting.status_code, waiting.json()["success"]) == (202, True)
        assert waiting.json()["data"]["status"] == "pending"
        url = waiting.headers["location"]
        assert url == f"{BASE}/requests/{waiting.json()['data']['request_id']}"
        assert (await plane.client.get(url, headers=plane.ada)).status_code == 202

        assert await plane.worker.run_pending() == 1
        bob = await new_user(plane, "bob@example.com", "auditor", "addons.read")
        for stranger, status in ((plane.eve, 404), (bob, 201), ({}, 401)):
            reply = await plane.client.get(url, headers=stranger)
            assert reply.status_code == status
            assert not reply.json().get("install_secret")
        told = await plane.client.get(url, headers=plane.ada)
        assert told.status_code == 201
        assert len(bytes.fromhex(told.json()["install_secret"])) == 32
        assert told.headers["cache-control"] == "no-store"
        assert (await plane.client.get(url, headers=plane.ada)).json()["install_secret"] == ""

        off = await plane.client.post(f"{BASE}/installations/tickets/disable", headers=plane.ada)
        assert off.status_code == 202
        await plane.worker.run_pending()
        outcome = await plane.client.get(off.headers["location"], headers=plane.ada)
        assert outcome.json()["data"]["installation"]["status"] == "disabled"


async def test_a_refusal_that_comes_later_is_told_later(database_urls: DatabaseUrls) -> None:
    async with control_plane(database_urls, request_wait=0.0) as plane:
        content, _ = signed(make_bundle(tickets_manifest()))
        waiting = await plane.install(plane.ada, content)
        assert waiting.status_code == 202
        await plane.worker.run_pending()
        reply = await plane.client.get(waiting.headers["location"], headers=plane.ada)
        assert (reply.status_code, reply.json()["code"]) == (422, "unsigned")


async def test_a_reply_waits_for_a_worker_that_is_slow_to_come(plane: Plane) -> None:
    asking = asyncio.create_task(plane.install(plane.ada))
    while not await plane.worker.run_pending():
        assert not asking.done()
    assert (await asking).status_code == 201


async def test_a_role_needs_the_capability_of_each_route(installed: Plane) -> None:
    client = installed.client
    some = str(uuid.uuid4())
    calls = (
        ("POST", "installations/tickets", "addons.install", 400),
        ("POST", "installations/tickets/enable", "addons.update", 200),
        ("POST", "installations/tickets/disable", "addons.update", 200),
        ("POST", "installations/tickets/secret/rotate", "addons.update", 200),
        ("PUT", "installations/tickets/settings", "addons.update", 200),
        ("GET", "installations/tickets/settings", "addons.read", 200),
        ("GET", f"requests/{some}", "addons.read", 404),
        ("DELETE", "installations/tickets", "addons.delete", 200),
    )
    nobody = await new_user(installed, "nobody@example.com", "nobody")
    for method, path, capability, _status in calls:
        reply = await client.request(method, f"{BASE}/{path}", headers=nobody, content=b"{}")
        assert reply.status_code == 403, path
        assert reply.json()["message"] == f'permission denied: missing capability "{capability}"'
    names = sorted({capability for _, _, capability, _ in calls})
    someone = await new_user(installed, "someone@example.com", "operator", *names)
    for method, path, _capability, status in calls:
        reply = await client.request(method, f"{BASE}/{path}", headers=someone, content=b"{}")
        assert reply.status_code == status, (path, reply.text)


async def test_frontend_files_come_with_type_tag_and_caching(installed: Plane) -> None:
    base = f"{BASE}/addons/tickets/frontend"
    for path, kind in (
        ("remoteEntry.js", "text/javascript; charset=utf-8"),
        ("assets/style.css", "text/css; charset=utf-8"),
        ("logo.svg", "image/svg+xml"),
    ):
        reply = await installed.client.get(f"{base}/{path}", headers=installed.ada)
        assert (reply.status_code, reply.content) == (200, FRONTEND[path])
        assert reply.headers["content-type"] == kind
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "public, no-cache"
        tag = reply.headers["etag"]
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = await installed.client.get(f"{base}/{path}", headers={**installed.ada, "If-None-Match": condition})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        changed = await installed.client.get(f"{base}/{path}", headers={**installed.ada, "If-None-Match": '"other"'})
        assert changed.status_code == 200
    hashed = await installed.client.get(f"{base}/assets/app-3f9a1c2b.js", headers=installed.ada)
    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_frontend_files_are_served_only_where_the_addon_is_enabled(installed: Plane) -> None:
    url = f"{BASE}/addons/tickets/frontend/remoteEntry.js"
    client = installed.client
    assert (await client.get(url)).status_code == 200
    assert (await client.get(url, headers=installed.eve)).status_code == 404
    await client.post(f"{BASE}/installations/tickets/disable", headers=installed.ada)
    for headers in ({}, installed.ada, installed.eve):
        assert (await client.get(url, headers=headers)).status_code == 404


OUTSIDE = (
    "../manifest.json",
    "%2e%2e/manifest.json",
    "%2e%2e%2fmanifest.json",
    "..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "assets%2f..%2f..%2fmanifest.json",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..%5c..%5cmanifest.json",
    "%252e%252e/manifest.json",
    "remoteEntry.js%00.css",
    "%00",
    "assets",
    "",
    ".",
    "a/" * 2_000 + "b",
    "x" * 5_000,
    "%ff%fe",
    "~root",
)


async def test_no_path_leads_out_of_the_frontend(installed: Plane) -> None:
    # Over a real server: a client library would tidy such paths up before they are sent.
    async with serving(installed.web) as (address, _server):
        for path in OUTSIDE:
            answer = await raw_get(address, f"{BASE}/addons/tickets/frontend/{path}", installed.ada["Authorization"])
            assert answer.startswith(b"HTTP/1.1 404 "), (path, answer[:200])
            assert b"root:" not in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["success"] is False


async def raw_get(address: str, target: str, authorization: str) -> bytes:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_another_addons_files_are_not_reached_through_this_one(installed: Plane) -> None:
    billing = make_bundle(
        tickets_manifest(key="billing", models=[], settings=[], capabilities=[]), frontend={"secret.js": b"billing"}
    )
    assert (await installed.install(installed.eve, *signed(billing), key="billing")).status_code == 201
    digest = hashlib.sha256(billing).hexdigest()
    for path in ("secret.js", f"../{digest}/secret.js", f"%2e%2e%2f{digest}%2fsecret.js"):
        reply = await installed.client.get(f"{BASE}/addons/tickets/frontend/{path}", headers=installed.ada)
        assert (reply.status_code, b"billing" in reply.content) == (404, False)
    # Ada's organization does not have that addon at all.
    own = await installed.client.get(f"{BASE}/addons/billing/frontend/secret.js", headers=installed.ada)
    assert own.status_code == 404


async def test_routes_that_do_not_exist_are_refused_in_the_envelope(plane: Plane) -> None:
    for path in ("toolbox", "nothing/at/all"):
        reply = await plane.client.get(f"{BASE}/{path}", headers=plane.ada)
        assert (reply.status_code, reply.json()["success"]) == (404, False)
