"""The pages on auth and permissions tell every route and every refusal, and their code runs."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from tests.accounts import CONFIG, bearer, serving
from tests.factories import PASSWORD, principal

from metacore.api.auth import build_auth_router
from metacore.api.permissions import build_permissions_router
from metacore.api.users import build_users_router
from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("auth", "permissions")}


@pytest.fixture
async def auth() -> AsyncIterator[AuthService]:
    database = await Database.connect("sqlite://")
    service = AuthService(database, CONFIG)
    yield service
    service.close()
    await database.close()


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


def run(page: str, marker: str, space: dict[str, Any]) -> None:
    """Run the block that holds `marker`, without the __future__ import of this file."""
    code = next(block for block in blocks(page) if marker in block)
    exec(compile(code, f"docs/{page}.md", "exec", dont_inherit=True), space)


def routes(router: APIRouter) -> set[tuple[str, str]]:
    found = set()
    for route in router.routes:
        for method in getattr(route, "methods", ()):
            found.add((method, str(getattr(route, "path", ""))))
    return found


def documented(page: str) -> set[tuple[str, str]]:
    """`GET /path` in the first column of a table; several methods may share a path."""
    found = set()
    for row in re.findall(r"^\| ([^|]*`/?[^|]*) \|", PAGES[page], re.MULTILINE):
        path = re.search(r"(/[a-z_/{}]+)", row)
        if path is not None:
            found |= {(method, path.group(1)) for method in re.findall(r"GET|POST|PUT|PATCH|DELETE", row)}
    return found


async def test_every_route_is_documented_and_every_documented_route_exists(auth: AuthService) -> None:
    permissions = PermissionService(MemoryPermissionStore())
    assert documented("auth") == routes(build_auth_router(auth)) | routes(build_users_router(auth, permissions))
    assert documented("permissions") == routes(build_permissions_router(permissions, auth))


def test_every_refusal_of_the_room_is_documented() -> None:
    used = set()
    for path in (ROOT / "kernel" / "metacore" / "auth").glob("*.py"):
        used |= set(re.findall(r'code="([a-z_]+)"', path.read_text("utf-8")))
    used -= {"unknown_user", "unknown_organization"}  # Plain 404s.
    assert used
    assert {code for code in used if f"`{code}`" not in PAGES["auth"]} == set()


async def test_the_gate_of_the_page_gates(sqlite_db: Database) -> None:
    service = AuthService(sqlite_db, CONFIG)
    store = MemoryPermissionStore({"agent": ["reports.audit"]})
    permissions = PermissionService(store)
    space: dict[str, Any] = {}
    run("permissions", "def build_reports_router", space)
    try:
        ada = await service.register("Ada", "ada@example.com", PASSWORD)
        await service.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD)
        grace = await service.login("grace@example.com", PASSWORD)
        async with serving(space["build_reports_router"](service, permissions)) as client:
            statuses = [await ask(client, token) for token in (ada.token, grace.token)]
    finally:
        service.close()
    assert statuses == [(200, 200), (200, 403)]


async def ask(client: httpx2.AsyncClient, token: str) -> tuple[int, int]:
    look = await client.get("/reports", headers=bearer(token))
    send = await client.post("/reports", headers=bearer(token))
    return look.status_code, send.status_code


async def test_a_store_of_the_host_is_as_small_as_the_page_says() -> None:
    space: dict[str, Any] = {}
    run("permissions", "class DirectoryStore", space)
    caller = principal(uuid.uuid4(), role="agent")
    assert await PermissionService(space["DirectoryStore"]()).check(caller, "tickets.create")


async def test_the_code_of_the_auth_page_runs(sqlite_db: Database) -> None:
    class App:
        auth = AuthService(sqlite_db, CONFIG)

    await App.auth.register("Ada", "ada@example.com", PASSWORD)
    code = "\n".join(f"    {line}" for line in blocks("auth")[0].splitlines())
    space: dict[str, Any] = {"app": App}
    exec(f"async def example():\n{code}\n    return grace", space)
    try:
        grace = await space["example"]()
        assert (await App.auth.get_user(grace.organization_id, grace.id)).status == "disabled"
    finally:
        App.auth.close()
