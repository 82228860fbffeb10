"""Entity tags of rows: nobody overwrites what they have not seen, nobody is sent what they have (contract 1, 412)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from tests.applications import new_app, register, started
from tests.conftest import DatabaseUrls

from metacore import App

URL = "/api/dynamic/gadgets"


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'host.db'}"
    urls: DatabaseUrls = request.getfixturevalue("database_urls")
    return urls.owner


@pytest.fixture
def kernel(database_url: str) -> App:
    return new_app(database_url)


@pytest.fixture(params=["lane", "router"])
async def client(request: pytest.FixtureRequest, kernel: App) -> AsyncIterator[httpx2.AsyncClient]:
    web = FastAPI()
    if request.param == "lane":
        kernel.mount(web)
    else:
        router = APIRouter()
        kernel.mount(router)
        web.include_router(router)
    async with started(web) as opened:
        opened.headers |= await register(opened, "ada@example.com")
        yield opened


async def made(client: httpx2.AsyncClient, **values: Any) -> tuple[str, str]:
    """URL and tag of a new row."""
    reply = await client.post(URL, json={"name": "Lamp", **values})
    assert reply.status_code == 201
    return f"{URL}/{reply.json()['data']['id']}", reply.headers["etag"]


async def test_the_tag_is_that_of_the_row_however_it_was_read(client: httpx2.AsyncClient) -> None:
    url, tag = await made(client, price=2.5)
    assert (await client.get(url)).headers["etag"] == tag
    changed = await client.patch(url, json={"price": 3})
    assert changed.headers["etag"] != tag
    assert (await client.get(url)).headers["etag"] == changed.headers["etag"]
    nothing = await client.put(url, json={})
    assert nothing.headers["etag"] == changed.headers["etag"]
    assert "etag" not in (await client.get(URL)).headers
    assert "etag" not in (await client.delete(url)).headers


async def test_who_has_the_row_is_not_sent_it_again(client: httpx2.AsyncClient) -> None:
    url, tag = await made(client)
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await client.get(url, headers={"If-None-Match": header})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for header in ('"other"', "", ","):
        other = await client.get(url, headers={"If-None-Match": header})
        assert (other.status_code, other.headers["etag"]) == (200, tag)
    gone = await client.get(f"{URL}/00000000-0000-4000-8000-000000000000", headers={"If-None-Match": "*"})
    assert gone.status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_change_of_a_version_that_is_gone_is_refused(client: httpx2.AsyncClient, method: str) -> None:
    url, first = await made(client)
    fine = await client.request(method, url, json={"name": "Lamp 2"}, headers={"If-Match": first})
    assert (fine.status_code, fine.json()["data"]["name"]) == (200, "Lamp 2")

    stale = await client.request(method, url, json={"name": "Lamp 3"}, headers={"If-Match": first})
    assert stale.status_code == 412
    assert stale.json() == {
        "success": False,
        "message": "the row was changed since it was read: read it again and repeat the change",
        "code": "stale_version",
    }
    assert (await client.get(url)).json()["data"]["name"] == "Lamp 2"

    for header in ("*", f'"other", {fine.headers["etag"]}', f"W/{fine.headers['etag']}"):
        reply = await client.request(method, url, json={}, headers={"If-Match": header})
        assert (header, reply.status_code) == (header, 200)
    lines = [("If-Match", '"other"'), ("If-Match", fine.headers["etag"])]
    assert (await client.request(method, url, json={}, headers=lines)).status_code == 200

    # Who lost the tag did not mean to do without.
    for header in ("", '""', ",", '"other"'):
        lost = await client.request(method, url, json={"name": "Lamp 4"}, headers={"If-Match": header})
        assert (header, lost.status_code) == (header, 412)


async def test_a_delete_of_a_version_that_is_gone_is_refused(client: httpx2.AsyncClient) -> None:
    url, first = await made(client)
    second = (await client.patch(url, json={"price": 1})).headers["etag"]
    assert (await client.delete(url, headers={"If-Match": first})).status_code == 412
    assert (await client.get(url)).status_code == 200
    assert (await client.delete(url, headers={"If-Match": second})).status_code == 200
    assert (await client.delete(url, headers={"If-Match": second})).status_code == 404


async def test_of_many_who_change_the_version_they_saw_one_wins(client: httpx2.AsyncClient) -> None:
    url, tag = await made(client)
    replies = await asyncio.gather(
        *(client.patch(url, json={"name": f"Lamp {turn}"}, headers={"If-Match": tag}) for turn in range(8))
    )
    assert sorted(reply.status_code for reply in replies) == [200] + [412] * 7
    winner = next(reply for reply in replies if reply.status_code == 200)
    assert (await client.get(url)).json()["data"] == winner.json()["data"]


async def test_other_rules_still_hold(client: httpx2.AsyncClient) -> None:
    url, tag = await made(client)
    wrong = await client.patch(url, json={"price": "much"}, headers={"If-Match": tag})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "price")
    eve = await register(client, "eve@example.com")
    assert (await client.patch(url, json={"price": 1}, headers={**eve, "If-Match": tag})).status_code == 404
