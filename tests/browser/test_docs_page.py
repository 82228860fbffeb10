"""/docs in a real browser: log in, see the organization's models, try one, log out; nothing from other hosts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tests.applications import PASSWORD
from tests.browser.chromium import Page, browsing
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.served import serving

TICKETS = "/api/dynamic/Ticket"


@dataclass
class Docs:
    """The page, opened by nobody yet."""

    plane: Plane
    page: Page
    url: str

    async def log_in(self, email: str, password: str = PASSWORD) -> None:
        await self.page.fill("input[name=email]", email)
        await self.page.fill("input[name=password]", password)
        await self.page.click("#login button")

    async def shown_to(self, who: str) -> str:
        """What the page says once it is drawn for `who`."""
        await self.page.until(f"document.body.dataset.shown === {json.dumps(who)}")
        return await self.page.text()


@pytest.fixture
async def docs(database_urls: DatabaseUrls) -> AsyncIterator[Docs]:
    async with control_plane(database_urls) as plane:
        async with plane.working():
            assert (await plane.install(plane.ada)).status_code == 201
        async with serving(plane.web) as (address, _server), browsing() as page:
            await page.open(f"http://{address}/docs")
            yield Docs(plane, page, f"http://{address}")


async def test_a_caller_logs_in_sees_the_models_and_tries_one(docs: Docs) -> None:
    page = docs.page
    anonymous = await docs.shown_to("anonymous")
    assert "/api/auth/login" in anonymous
    assert TICKETS not in anonymous

    await docs.log_in("ada@example.com")
    assert TICKETS in await docs.shown_to("ada@example.com")
    await page.click('[id="operations-Ticket-Ticket\\\\.create"] .opblock-summary-control')
    await page.click('[id="operations-Ticket-Ticket\\\\.create"] .execute')
    await page.until("document.querySelector('.live-responses-table tbody td').innerText.includes('201')")
    made = (await docs.plane.client.get(TICKETS, headers=docs.plane.ada)).json()["data"]
    assert [row["title"] for row in made] == ["string"]

    await page.open(f"{docs.url}/docs")
    assert TICKETS in await docs.shown_to("ada@example.com")
    await page.click("#caller button")
    assert TICKETS not in await docs.shown_to("anonymous")
    assert page.errors == []
    assert [url for url in page.requested if not url.startswith((docs.url, "data:"))] == []


async def test_a_caller_of_another_organization_sees_no_such_model(docs: Docs) -> None:
    await docs.log_in("eve@example.com")
    shown = await docs.shown_to("eve@example.com")
    assert TICKETS not in shown
    assert "/api/dynamic/{model}" in shown


async def test_a_wrong_password_and_a_session_that_ended_are_told(docs: Docs) -> None:
    page = docs.page
    await docs.log_in("ada@example.com", "wrong password")
    told = await page.until("document.getElementById('message').textContent")
    assert told.startswith("Login failed: ")

    await docs.log_in("ada@example.com")
    await docs.shown_to("ada@example.com")
    token = json.loads(await page.evaluate("sessionStorage.getItem('metacore.docs')"))["token"]
    await docs.plane.client.post("/api/auth/logout", headers={"Authorization": f"Bearer {token}"})
    await page.open(f"{docs.url}/docs")
    assert TICKETS not in await docs.shown_to("anonymous")
    assert await page.evaluate("document.getElementById('message').textContent") == "The session ended. Log in again."
    assert await page.evaluate("sessionStorage.length") == 0
