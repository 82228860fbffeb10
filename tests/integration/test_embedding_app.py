"""The kernel inside somebody else's program: models in code, own routes, the lane and the routes behind it."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from tests.applications import Gadget, new_app, register, started
from tests.conftest import DatabaseUrls

from metacore.db.database import Database
from metacore.errors import Misconfigured

ROOT = Path(__file__).parents[2]


@functools.cache
def shop() -> ModuleType:
    """The example, loaded once: SQLAlchemy takes a class only once into its base."""
    spec = importlib.util.spec_from_file_location("shop", ROOT / "examples" / "embedding" / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One role for everything, as a program that embeds the kernel has it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'host.db'}"
    urls: DatabaseUrls = request.getfixturevalue("database_urls")
    return urls.owner


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    web = FastAPI()
    new_app(database_url).mount(web)
    async with started(web) as opened:
        yield opened


async def test_a_model_in_code_is_served_with_crud_metadata_and_export(client: httpx2.AsyncClient) -> None:
    ada = await register(client, "ada@example.com")
    created = await client.post(
        "/api/dynamic/gadgets", json={"name": "Lamp", "price": 12.5, "pin": "1234"}, headers=ada
    )
    assert created.status_code == 201
    row = created.json()["data"]
    assert (row["name"], row["price"]) == ("Lamp", 12.5)
    assert "pin" not in row

    changed = await client.patch(f"/api/dynamic/gadgets/{row['id']}", json={"price": 9}, headers=ada)
    assert (changed.status_code, changed.json()["data"]["price"]) == (200, 9)
    listed = await client.get("/api/dynamic/gadgets?f_price=lte:9&sortBy=name", headers=ada)
    assert [item["id"] for item in listed.json()["data"]] == [row["id"]]
    assert listed.json()["meta"] == {"total": 1, "page": 1, "per_page": 20, "last_page": 1}

    table = (await client.get("/api/metadata/table/gadgets", headers=ada)).json()["data"]
    assert [column["key"] for column in table["columns"]][:2] == ["name", "price"]
    exported = await client.get("/api/dynamic/gadgets/export?format=csv&columns=name,price", headers=ada)
    assert exported.text.splitlines() == ["name,price", "Lamp,9"]

    gone = await client.delete(f"/api/dynamic/gadgets/{row['id']}", headers=ada)
    assert gone.json() == {"success": True, "data": {"id": row["id"]}}
    assert (await client.get(f"/api/dynamic/gadgets/{row['id']}", headers=ada)).status_code == 404


async def test_another_organization_sees_and_changes_nothing(client: httpx2.AsyncClient) -> None:
    ada, eve = await register(client, "ada@example.com"), await register(client, "eve@example.com")
    mine = (await client.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=ada)).json()["data"]
    url = f"/api/dynamic/gadgets/{mine['id']}"

    assert (await client.get("/api/dynamic/gadgets", headers=eve)).json()["meta"]["total"] == 0
    for reply in (
        await client.get(url, headers=eve),
        await client.patch(url, json={"name": "Stolen"}, headers=eve),
        await client.put(url, json={"name": "Stolen"}, headers=eve),
        await client.delete(url, headers=eve),
    ):
        assert reply.status_code == 404
    forged = {"name": "Planted", "organization_id": mine["organization_id"]}
    planted = (await client.post("/api/dynamic/gadgets", json=forged, headers=eve)).json()["data"]
    assert planted["organization_id"] != mine["organization_id"]
    assert (await client.get(url, headers=ada)).json()["data"] == mine


async def test_host_tables_on_postgresql_are_under_forced_row_level_security(database_urls: DatabaseUrls) -> None:
    web = FastAPI()
    kernel = new_app(database_urls.owner)
    kernel.mount(web)
    async with started(web) as client:
        ada = await register(client, "ada@example.com")
        await client.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=ada)
        async with kernel.database.postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.current_org', gen_random_uuid()::text, true)")
            assert await connection.fetchval("SELECT count(*) FROM gadgets") == 0


async def test_the_hosts_own_routes_are_authenticated_also_when_added_later(database_url: str) -> None:
    web = FastAPI()
    kernel = new_app(database_url)
    api = kernel.mount(web, prefix="/v1")

    async def whoami() -> dict[str, str]:
        return {"hello": "caller"}

    api.add_api_route("/whoami", whoami)
    async with started(web) as client:
        refused = await client.get("/v1/whoami")
        assert refused.status_code == 401
        assert refused.json()["success"] is False
        ada = await register(client, "ada@example.com", "/v1")
        assert (await client.get("/v1/whoami", headers=ada)).json() == {"hello": "caller"}
        assert (await client.get("/v1/dynamic/gadgets", headers=ada)).status_code == 200


async def test_a_router_serves_the_same_bytes_as_the_lane(database_url: str) -> None:
    behind, before = FastAPI(), FastAPI()
    router = APIRouter()
    slow = new_app(database_url)
    slow.mount(router)
    behind.include_router(router)
    fast = new_app(database_url)
    fast.mount(before)
    async with started(behind) as routed, started(before) as laned:
        ada = await register(laned, "ada@example.com")
        row = (await laned.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=ada)).json()["data"]
        url = f"/api/dynamic/gadgets/{row['id']}"
        for method, path, body in (
            ("GET", "/api/dynamic/gadgets?search=lam", None),
            ("GET", "/api/data/gadgets/me", None),
            ("GET", url, None),
            ("GET", url.replace("dynamic/gadgets", "data/gadgets/me"), None),
            ("GET", "/api/dynamic/nonsense", None),
            ("GET", "/api/dynamic/gadgets?f_price=eq:cheap", None),
            ("POST", "/api/dynamic/gadgets", b"[]"),
            ("POST", "/api/dynamic/gadgets", b'{"name": "' + b"x" * 41 + b'"}'),
            ("PATCH", url, b"{nonsense"),
            ("PUT", url, b'{"name": 7}'),
        ):
            first = await laned.request(method, path, content=body, headers=ada)
            second = await routed.request(method, path, content=body, headers=ada)
            assert (first.status_code, first.content) == (second.status_code, second.content), path


@pytest.mark.parametrize("text", ["not-a-uuid", "{00000000-0000-4000-8000-000000000000}", "0" * 32, "1" * 36])
async def test_an_id_that_is_none_is_400_and_names_it(client: httpx2.AsyncClient, text: str) -> None:
    ada = await register(client, "ada@example.com")
    reply = await client.get(f"/api/dynamic/gadgets/{text}", headers=ada)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_id")


async def test_bodies_over_the_limit_are_413_and_leave_no_row(database_url: str) -> None:
    web = FastAPI()
    new_app(database_url, max_body_bytes=1_024).mount(web)
    async with started(web) as client:
        ada = await register(client, "ada@example.com")
        reply = await client.post("/api/dynamic/gadgets", json={"name": "x" * 2_000}, headers=ada)
        assert (reply.status_code, reply.json()["success"]) == (413, False)
        assert (await client.get("/api/dynamic/gadgets", headers=ada)).json()["meta"]["total"] == 0


@pytest.mark.parametrize(
    "token", ["", "nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "Ünicode", "x" * 20_000]
)
async def test_tokens_that_do_not_hold_are_401_in_the_lane(client: httpx2.AsyncClient, token: str) -> None:
    headers = [(b"Authorization", f"Bearer {token}".encode())]
    reply = await client.get("/api/dynamic/gadgets", headers=headers)
    assert (reply.status_code, reply.json()["success"]) == (401, False)
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_every_reply_carries_a_request_id(client: httpx2.AsyncClient) -> None:
    ada = await register(client, "ada@example.com")
    for path in ("/api/dynamic/gadgets", "/api/metadata/all", "/api/nothing/here", "/healthz"):
        assert (await client.get(path, headers=ada)).headers["x-request-id"]
    echoed = await client.get("/api/dynamic/gadgets", headers={**ada, "X-Request-ID": "mine-42"})
    assert echoed.headers["x-request-id"] == "mine-42"


async def test_two_apps_live_in_one_process(database_url: str, tmp_path: Path) -> None:
    one, two = FastAPI(), FastAPI()
    new_app(database_url).mount(one)
    new_app(f"sqlite:///{tmp_path / 'second.db'}").mount(two)
    async with started(one) as first, started(two) as second:
        ada = await register(first, "ada@example.com")
        await first.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=ada)
        eve = await register(second, "ada@example.com")
        assert (await second.get("/api/dynamic/gadgets", headers=eve)).json()["meta"]["total"] == 0


async def test_what_cannot_work_is_said_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="mysql"):
        new_app("mysql://nowhere/none")
    with pytest.raises(Misconfigured, match="32 bytes"):
        new_app(f"sqlite:///{tmp_path / 'a.db'}", jwt_secret="short")
    with pytest.raises(Misconfigured, match="twice"):
        new_app(f"sqlite:///{tmp_path / 'b.db'}").register_model("gadgets", lambda: Gadget)

    class Missing:
        table_name = "nowhere"

        def define_table(self) -> dict[str, Any]:
            return {}

        def define_modal(self) -> dict[str, Any]:
            return {}

    kernel = new_app(f"sqlite:///{tmp_path / 'c.db'}").register_model("missing", Missing)
    with pytest.raises(Misconfigured, match="nowhere"):
        await kernel.start()
    await kernel.stop()


async def test_an_unreachable_database_is_named_without_its_password() -> None:
    kernel = new_app("postgresql://user:hunter2@127.0.0.1:1/none")
    with pytest.raises(Misconfigured) as refused:
        await kernel.start()
    assert "127.0.0.1:1" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_the_kernels_role_is_checked_where_it_must_be(database_urls: DatabaseUrls) -> None:
    for url, reason in ((database_urls.superuser, "superuser"), (database_urls.owner, "owns")):
        database = Database(url)
        kernel = new_app(database, require_kernel_role=True, run_migrations=None)
        with pytest.raises(Misconfigured, match=reason):
            await kernel.start()
        await database.close()


async def test_the_example_of_the_documentation_runs(database_url: str) -> None:
    web = shop().create_app(database_url, "a secret of at least thirty-two bytes")
    async with started(web) as client:
        ada = await register(client, "ada@example.com")
        gift = await client.post("/api/dynamic/products", json={"name": "Gift"}, headers=ada)
        assert (gift.status_code, gift.json()["code"]) == (422, "price_missing")
        for name, price in (("Mug", 7.5), ("Lamp", 30)):
            await client.post("/api/dynamic/products", json={"name": name, "price": price}, headers=ada)
        assert (await client.get("/api/cheapest", headers=ada)).json()["data"]["name"] == "Mug"


async def test_operations_on_rows_are_counted_by_outcome(client: httpx2.AsyncClient) -> None:
    ada = await register(client, "ada@example.com")
    row = (await client.post("/api/dynamic/gadgets", json={"name": "Lamp"}, headers=ada)).json()["data"]
    await client.post("/api/dynamic/gadgets", json={}, headers=ada)
    await client.get(f"/api/dynamic/gadgets/{row['id']}", headers=ada)
    await client.get("/api/dynamic/no-such-model", headers=ada)
    scraped = (await client.get("/metrics")).text
    counted = {line for line in scraped.splitlines() if line.startswith("metacore_crud_operations_total{")}
    assert counted == {
        'metacore_crud_operations_total{model="gadgets",operation="create",outcome="ok"} 1.0',
        'metacore_crud_operations_total{model="gadgets",operation="create",outcome="refused"} 1.0',
        'metacore_crud_operations_total{model="gadgets",operation="get",outcome="ok"} 1.0',
    }
