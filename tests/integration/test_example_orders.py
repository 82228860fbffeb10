"""The orders example: what it does in one transaction, and its way from shadow to enforce."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests import toolchains
from tests.addon_code import ask, example, installed
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane

from metacore.bundle.write import pack_folder
from metacore.capabilities.access import Mode


@pytest.fixture(autouse=True)
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", toolchains.search_path())


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls, administrators=("*",), request_wait=55.0) as opened, opened.working():
        yield opened


async def test_the_examples_work_together(plane: Plane, tmp_path: Path) -> None:
    """The install handler makes an order, confirming it counts, writes and tells, and the journal hears of it."""
    await installed(plane, example("journal", tmp_path))
    await installed(plane, example("orders", tmp_path))

    async def until(path: str, wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(2_000):
            found = (await ask(plane, "GET", path))["data"]
            if wanted(found):
                return found
        raise AssertionError(found)

    (order,) = await until("/dynamic/orders", lambda rows: len(rows) == 1)
    await until("/dynamic/order_lines", lambda rows: len(rows) == 2)
    path = f"/dynamic/Order/{order['id']}/action/confirm"
    confirmed = await ask(plane, "POST", path, {})
    assert confirmed["data"] == {"lines": 2, "total": 89.5}, confirmed
    (order,) = (await ask(plane, "GET", "/dynamic/orders"))["data"]
    assert (order["status"], order["total"]) == ("confirmed", 89.5)
    assert (await ask(plane, "POST", path, {}))["success"] is False
    entries = await until(
        "/dynamic/journal_entries", lambda rows: any(row["event"] == "orders.order.confirmed" for row in rows)
    )
    noted = next(row for row in entries if row["event"] == "orders.order.confirmed")
    assert noted["details"]["total"] == 89.5

    empty = (await ask(plane, "POST", "/dynamic/orders", {"customer": "Nobody"}))["data"]
    declined = await ask(plane, "POST", f"/dynamic/Order/{empty['id']}/action/confirm", {})
    assert declined["error"]["code"] == "no_lines"


async def test_what_a_manifest_leaves_out_is_recorded_then_refused_then_granted(plane: Plane, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    content = example("orders", tmp_path)
    await installed(plane, content)
    customer = {"customer": "Ada"}

    async def confirm() -> tuple[int, Any]:
        order = (await ask(plane, "POST", "/dynamic/orders", customer))["data"]["id"]
        line = {"order_id": order, "sku": "tea", "quantity": 2, "price": 4}
        assert (await ask(plane, "POST", "/dynamic/order_lines", line))["success"]
        answer = await plane.client.post(f"/api/dynamic/Order/{order}/action/confirm", json={}, headers=plane.ada)
        state = (await ask(plane, "GET", f"/dynamic/orders/{order}"))["data"]["status"]
        return answer.status_code, (answer.json(), state)

    status, (body, state) = await confirm()
    assert (status, state) == (200, "confirmed"), body
    await plane.app.enforcement.modes.ask(Mode.ENFORCE, "ada@example.com")
    status, (body, state) = await confirm()
    assert (status, state) == (403, "draft"), body
    assert body["error"]["code"] == "forbidden"
    assert "billing.invoice.requested" in body["error"]["message"]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["metadata"]["version"] = "1.0.1"
    manifest["capabilities"].append({"kind": "event:emit", "target": "billing.invoice.requested", "reason": "asks"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    await installed(plane, pack_folder(folder))
    status, (body, state) = await confirm()
    assert (status, state) == (200, "confirmed"), body
