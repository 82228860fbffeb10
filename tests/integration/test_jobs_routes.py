"""Jobs over HTTP, in a whole kernel: a host's functions run as handlers, and people see what became of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.control_plane import control_plane
from tests.job_world import compiled
from tests.tickets import make_bundle, signed, tickets_manifest

from metacore.addons.handlers.compiled import FunctionCall
from metacore.addons.jobs import retry
from metacore.cli.main import main


async def test_handlers_run_in_the_app_and_failed_ones_can_be_tried_again(
    database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.05)
    calls: list[FunctionCall] = []
    mended = False

    def on_install(call: FunctionCall) -> Any:
        calls.append(call)
        return {"success": mended, "error": {"code": "no_mail", "message": "the server is away"}}

    async with control_plane(database_urls) as plane, plane.working():
        plane.app.functions.register("tickets", "on_install", on_install)

        async def jobs(headers: dict[str, str], query: str = "") -> Any:
            reply = await plane.client.get(f"/api/metacore/jobs{query}", headers=headers)
            assert reply.status_code == 200, reply.text
            return reply.json()

        async def until(status: str) -> dict[str, Any]:
            async with asyncio.timeout(20):
                while not (found := (await jobs(plane.ada, f"?status={status}"))["data"]):  # noqa: ASYNC110 - another process ends them.
                    await asyncio.sleep(0.02)
            row: dict[str, Any] = found[0]
            return row

        manifest = tickets_manifest(lifecycle={"install": compiled("on_install")})
        assert (await plane.install(plane.ada, *signed(make_bundle(manifest)))).status_code == 201
        failed = await until("failed")
        assert failed["last_error"] == "no_mail: the server is away"
        assert (failed["kind"], failed["name"], failed["addon_key"]) == ("lifecycle", "install", "tickets")
        assert {str(call.invocation_id) for call in calls} == {failed["id"]}

        retried = f"/api/metacore/jobs/{failed['id']}/retry"
        assert (await plane.client.post(retried)).status_code == 401
        assert (await plane.client.post(retried, headers=plane.eve)).status_code == 404
        monkeypatch.setenv("METACORE_OWNER_DATABASE_URL", database_urls.owner)
        assert await asyncio.to_thread(main, ["jobs", "list", "--status", "failed", "--json"]) == 0
        assert [row["id"] for row in json.loads(capsys.readouterr().out)["jobs"]] == [failed["id"]]
        assert await asyncio.to_thread(main, ["jobs", "list"]) == 0
        assert "no_mail: the server is away" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["jobs", "retry", "nope"]) == 1
        mended = True
        assert (await plane.client.post(retried, headers=plane.ada)).json()["data"]["status"] == "pending"
        await until("done")
        assert (await plane.client.post(retried, headers=plane.ada)).status_code == 409

        whole = await jobs(plane.ada)
        assert whole["meta"] == {"total": 1, "page": 1, "per_page": 20, "last_page": 1}
        assert (await jobs(plane.eve))["data"] == []
        for bad in ("?status=lost", "?kind=x"):
            reply = await plane.client.get(f"/api/metacore/jobs{bad}", headers=plane.ada)
            assert reply.status_code == 400
        assert (await plane.client.post("/api/metacore/jobs/nope/retry", headers=plane.ada)).status_code == 400
