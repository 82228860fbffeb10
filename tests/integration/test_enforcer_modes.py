"""The mode of several kernels on one database: who decides, and that all follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from tests.applications import SECRET, register, started
from tests.conftest import DatabaseUrls

from metacore import App, AppConfig
from metacore.capabilities.access import Mode
from metacore.capabilities.modes import Asked, ModeSource, Wishes, mode_from_words
from metacore.db.database import Database
from metacore.permissions.database_store import DatabasePermissionStore

MODE = "/api/metacore/mode"


class Kernel:
    """One App with a client that speaks to it."""

    def __init__(self, app: App, client: httpx2.AsyncClient) -> None:
        self.app, self.client = app, client


@asynccontextmanager
async def kernels(url: str, *several: dict[str, Any]) -> AsyncIterator[list[Kernel]]:
    async with AsyncExitStack() as stack:
        running = []
        for number, changes in enumerate(several):
            database = await Database.connect(url, pool_size=4)
            stack.push_async_callback(database.close)
            config: dict[str, Any] = {
                "database": database,
                "jwt_secret": SECRET,
                "heartbeat_interval": 0.05,
                "run_migrations": None,
                "create_tables": False,
                "permission_store": DatabasePermissionStore(database),
                "pod_name": f"pod-{number}",
                "mode_organizations": ["*"],
                **changes,
            }
            app, web = App(AppConfig(**config)), FastAPI()
            app.mount(web)
            running.append(Kernel(app, await stack.enter_async_context(started(web))))
        yield running


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if look():
                return
            await asyncio.sleep(0.01)


async def told(owner_db: Database, *modes: str) -> None:
    """Wait until the heartbeats of the kernels tell these modes, in the order of their pods."""
    async with asyncio.timeout(30):
        while True:
            rows = await owner_db.postgres.fetch("SELECT mode FROM metacore_heartbeats ORDER BY pod")
            if [row["mode"] for row in rows] == list(modes):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("configured", list(Mode))
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("file", [None, *Mode])
@pytest.mark.parametrize("asked", [None, *Mode])
def test_precedence(configured: Mode, fixed: bool, file: Mode | None, asked: Mode | None) -> None:
    wishes = Wishes(configured, fixed, file, Asked(asked, "ada", None) if asked is not None else None)
    if fixed:
        assert (wishes.mode, wishes.source) == (configured, ModeSource.CLUSTER)
    elif file is not None:
        assert (wishes.mode, wishes.source) == (file, ModeSource.FILE)
    elif asked is not None:
        assert (wishes.mode, wishes.source) == (asked, ModeSource.API)
    else:
        assert (wishes.mode, wishes.source) == (configured, ModeSource.SETTINGS)


def test_words() -> None:
    for word in ("1", "true", "YES", " Enforce\n"):
        assert mode_from_words(word) is Mode.ENFORCE
    for word in ("0", "False", "no", "shadow\n"):
        assert mode_from_words(word) is Mode.SHADOW
    for word in ("", "  ", "enfroce", "11"):
        assert mode_from_words(word) is None


async def test_what_is_asked_of_one_kernel_holds_in_all_and_after_a_restart(
    database_urls: DatabaseUrls, owner_db: Database
) -> None:
    async with kernels(database_urls.kernel, {}, {}) as (one, other):
        ada = await register(one.client, "ada@example.com")
        reply = await one.client.put(MODE, json={"mode": "enforce"}, headers=ada)
        assert (reply.status_code, reply.json()["data"]["mode"], reply.json()["data"]["source"]) == (
            200,
            "enforce",
            "api",
        )
        assert one.app.enforcer.mode is Mode.ENFORCE
        await until(lambda: other.app.enforcer.mode is Mode.ENFORCE)
        await told(owner_db, "enforce", "enforce")
        seen = (await other.client.get(MODE, headers=ada)).json()["data"]
        assert (seen["mode"], seen["source"], seen["configured"], seen["asked"]) == (
            "enforce",
            "api",
            "shadow",
            "enforce",
        )
        assert seen["asked_at"].endswith("Z") and seen["addons"] == []
    async with kernels(database_urls.kernel, {}, {"enforce": True}) as (one, other):
        assert one.app.enforcer.mode is Mode.ENFORCE
        assert (await other.client.put(MODE, json={"mode": "shadow"}, headers=ada)).status_code == 200
        await until(lambda: one.app.enforcer.mode is Mode.SHADOW)
        await told(owner_db, "shadow", "shadow")
        # Taking the wish back leaves each kernel with its own setting.
        assert (await one.client.put(MODE, json={"mode": None}, headers=ada)).json()["data"]["source"] == "settings"
        await told(owner_db, "shadow", "enforce")


async def test_a_followed_file_wins_and_what_is_being_written_changes_nothing(
    database_urls: DatabaseUrls, owner_db: Database, tmp_path: Path
) -> None:
    file = tmp_path / "enforce"
    file.write_text("1\n")
    async with kernels(database_urls.kernel, {"enforce_file": str(file)}, {}) as (one, other):
        ada = await register(one.client, "ada@example.com")
        assert [kernel.app.enforcer.mode for kernel in (one, other)] == [Mode.ENFORCE, Mode.SHADOW]
        refused = await one.client.put(MODE, json={"mode": "shadow"}, headers=ada)
        assert (refused.status_code, refused.json()["code"]) == (409, "mode_fixed")
        assert "follows a file" in refused.json()["message"] and str(file) not in refused.text
        for unfinished in ("", "tru"):
            file.write_text(unfinished)
            await one.app.enforcement.modes.follow()
            assert one.app.enforcement.modes.mode is Mode.ENFORCE
        file.unlink()
        await one.app.enforcement.modes.follow()
        assert one.app.enforcer.mode is Mode.ENFORCE
        file.write_text("no")
        await until(lambda: one.app.enforcer.mode is Mode.SHADOW)
        await told(owner_db, "shadow", "shadow")
        seen = (await one.client.get(MODE, headers=ada)).json()["data"]
        assert (seen["source"], "follows a file" in seen["fixed"]) == ("file", True)


async def test_a_file_that_never_was_leaves_the_others_their_say(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    async with kernels(database_urls.kernel, {"enforce_file": missing, "enforce": True}) as (one,):
        assert one.app.enforcement.modes.wishes.source is ModeSource.SETTINGS
        assert one.app.enforcement.modes.mode is Mode.ENFORCE
        ada = await register(one.client, "ada@example.com")
        assert (await one.client.put(MODE, json={"mode": "shadow"}, headers=ada)).status_code == 200
        assert one.app.enforcer.mode is Mode.SHADOW


async def test_the_clusters_mode_is_nobodys_to_change(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    file = tmp_path / "enforce"
    file.write_text("0")
    pod = {"mode_fixed": True, "enforce": True, "enforce_file": str(file)}
    async with kernels(database_urls.kernel, pod, {}) as (one, other):
        ada = await register(one.client, "ada@example.com")
        refused = await one.client.put(MODE, json={"mode": "shadow"}, headers=ada)
        assert (refused.status_code, refused.json()["code"]) == (409, "mode_fixed")
        assert "the cluster's" in refused.json()["message"]
        assert (await other.client.put(MODE, json={"mode": "shadow"}, headers=ada)).status_code == 200
        await one.app.enforcement.modes.follow()
        seen = (await one.client.get(MODE, headers=ada)).json()["data"]
        assert (seen["mode"], seen["source"], seen["asked"]) == ("enforce", "cluster", None)


async def test_only_who_administers_the_installation_may_ask(database_urls: DatabaseUrls) -> None:
    async with kernels(database_urls.kernel, {"mode_organizations": []}, {}) as (closed, opened):
        ada = await register(closed.client, "ada@example.com")
        refused = await closed.client.put(MODE, json={"mode": "enforce"}, headers=ada)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_an_administrator")
        assert "mode_organizations" in refused.json()["message"]
        agent = {"name": "Bob", "email": "bob@example.com", "password": "correct horse battery", "role": "agent"}
        assert (await closed.client.post("/api/users", json=agent, headers=ada)).status_code == 201
        login = await closed.client.post("/api/auth/login", json=agent)
        bob = {"Authorization": f"Bearer {login.json()['data']['token']}"}
        denied = await opened.client.put(MODE, json={"mode": "enforce"}, headers=bob)
        assert (denied.status_code, denied.json()["message"]) == (
            403,
            'permission denied: missing capability "addons.enforce"',
        )
        assert (await opened.client.put(MODE, json={"mode": "enforce"})).status_code == 401
        me = (await opened.client.get("/api/auth/me", headers=ada)).json()["data"]["user"]["organization_id"]
    async with kernels(database_urls.kernel, {"mode_organizations": [me]}) as (mine,):
        eve = await register(mine.client, "eve@example.com")
        assert (await mine.client.put(MODE, json={"mode": "enforce"}, headers=eve)).status_code == 403
        assert (await mine.client.put(MODE, json={"mode": "enforce"}, headers=ada)).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "mode is required"),
        (b'{"mode": "off"}', "neither shadow, enforce nor null"),
        (b'{"mode": 1}', "neither shadow, enforce nor null"),
        (b'{"mode": ["enforce"]}', "neither shadow, enforce nor null"),
        (b'{"mode": "enforce", "addon": "shop"}', "spec.mode"),
        (b"[]", "must be a JSON object"),
        (b"enforce", "not JSON"),
    ],
)
async def test_a_wish_that_is_none(database_urls: DatabaseUrls, body: bytes, says: str) -> None:
    async with kernels(database_urls.kernel, {}) as (one,):
        ada = await register(one.client, "ada@example.com")
        reply = await one.client.put(MODE, content=body, headers=ada)
        assert (reply.status_code, says in reply.json()["message"]) == (400, True), reply.text
        assert one.app.enforcer.mode is Mode.SHADOW


async def test_a_database_that_cannot_say_changes_nothing(
    database_urls: DatabaseUrls, owner_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with kernels(database_urls.kernel, {}) as (one,):
        ada = await register(one.client, "ada@example.com")
        assert (await one.client.put(MODE, json={"mode": "enforce"}, headers=ada)).status_code == 200
        await owner_db.postgres.execute("REVOKE SELECT ON metacore_mode FROM metacore_kernel")
        for _ in range(3):
            await one.app.enforcement.modes.follow()
        assert one.app.enforcer.mode is Mode.ENFORCE
        assert caplog.text.count("enforcer.mode_unread") == 1


async def test_on_sqlite_the_mode_is_asked_for_and_kept_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"
    changes = {"run_migrations": True, "permission_store": None}
    async with kernels(url, changes, changes) as (one, other):
        ada = await register(one.client, "ada@example.com")
        assert (await one.client.put(MODE, json={"mode": "enforce"}, headers=ada)).status_code == 200
        await until(lambda: other.app.enforcer.mode is Mode.ENFORCE)
