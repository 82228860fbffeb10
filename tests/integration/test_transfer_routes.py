"""Exports and imports over HTTP, as a client meets them."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Header
from starlette.datastructures import UploadFile
from tests.accounts import serving
from tests.desk import Desk, open_desk

from metacore.api import uploads
from metacore.api.records import RecordsEndpoint, build_records_router
from metacore.api.transfer import build_transfer_router
from metacore.db.database import Database
from metacore.dynamic import imports
from metacore.dynamic.exports import ExportService
from metacore.dynamic.hook_points import HookContext, HookRegistry
from metacore.dynamic.import_files import ImportLimits, ImportTable, read_table
from metacore.dynamic.imports import ImportService
from metacore.dynamic.service import DynamicService
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore

ROOTS = ["/dynamic/tickets", "/data/tickets", "/data/tickets/me"]


@pytest.fixture
async def desk(sqlite_db: Database) -> Desk:
    """Files over HTTP are the same on both databases; the services are tested on both."""
    return await open_desk(sqlite_db, sqlite_db)


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[httpx2.AsyncClient]:
    """Callers say who they are by a header; `agent` holds nothing."""
    async with client_of(desk, limits=ImportLimits(max_rows=50, max_bytes=5_000)) as made:
        yield made


@asynccontextmanager
async def client_of(
    desk: Desk, *, hooks: HookRegistry | None = None, **importing: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    permissions = PermissionService(MemoryPermissionStore())
    dynamic = DynamicService(desk.db, desk.registry, hooks=hooks)

    async def principal(role: Annotated[str, Header()] = "owner") -> Principal:
        return desk.caller(role=role)

    transfer = build_transfer_router(
        ExportService(desk.db, desk.registry, permissions=permissions),
        ImportService(dynamic, desk.registry, permissions=permissions, **importing),
        principal,
    )
    async with serving(transfer, build_records_router(RecordsEndpoint(dynamic, 1_000), principal)) as made:
        yield made


class Waiting:
    """A body of which nothing comes, and whether anybody asked for it."""

    def __init__(self, *first: bytes) -> None:
        self.first = first
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # The transport of these tests asks for a chunk when the application does.
        for chunk in self.first:
            yield chunk
        self.asked.set()
        await self.go_on.wait()
        yield b"title\na\n"


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.csv"\r\n\r\ntitle\n'
BODIES = [
    ({"content-type": "text/csv"}, (b"title\n",)),
    ({"content-type": "multipart/form-data; boundary=x"}, (FORM, b"x" * 3_000)),
]


@pytest.mark.parametrize("path", ["import", "import/validate"])
async def test_an_import_waits_for_its_slot_before_its_body_is_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    headers = {"content-type": "text/csv"}
    async with client_of(desk, slot_wait_seconds=0.05) as client:
        begun = []
        for _ in range(2):
            body = Waiting()
            begun.append(
                (body, asyncio.create_task(client.post(f"/dynamic/tickets/{path}", content=body, headers=headers)))
            )
            await body.asked.wait()
        late = Waiting()
        refused = await client.post(f"/dynamic/tickets/{path}", content=late, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "imports_busy")
        assert refused.headers["retry-after"] == "10"
        assert not late.asked.is_set()
        for body, task in begun:
            body.go_on.set()
            assert (await task).status_code == 200


@pytest.mark.parametrize(("headers", "first"), BODIES)
async def test_a_body_that_does_not_come_gives_its_slot_back(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], first: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(uploads, "RECEIVE_SECONDS", 0.05)
    for _ in range(3):
        slow = await client.post("/dynamic/tickets/import", content=Waiting(*first), headers=headers)
        assert (slow.status_code, slow.json()["code"]) == (408, "too_slow")
        assert slow.json()["message"] == "the file comes too slowly: it has 0.05 seconds"
    assert (await client.post("/dynamic/tickets/import", files=file("title\na\n"))).status_code == 200


async def test_a_file_that_trickles_in_keeps_no_other_from_being_imported(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CONCURRENT_IMPORTS", 1)
    async with client_of(desk, slot_wait_seconds=0.05) as client:
        body = Waiting(b"title\n")
        slow = asyncio.create_task(
            client.post("/dynamic/tickets/import", content=body, headers={"content-type": "text/csv"})
        )
        await body.asked.wait()
        assert (await client.post("/dynamic/tickets/import", files=file("title\na\n"))).status_code == 200
        body.go_on.set()
        assert (await slow).status_code == 200


async def test_rows_that_are_created_for_long_keep_no_other_from_sending_a_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn to send one is about files on the disk, and this one is gone from there."""
    monkeypatch.setattr(imports, "RECEIVED_AT_ONCE", 1)
    creating, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_context: HookContext, _values: Mapping[str, Any]) -> None:
        creating.set()
        await go_on.wait()

    hooks = HookRegistry()
    hooks.register("before_create", "tickets", wait)
    async with client_of(desk, hooks=hooks, slot_wait_seconds=0.05) as client:
        first = asyncio.create_task(client.post("/dynamic/tickets/import", files=file("title\na\n")))
        await creating.wait()
        checked = await client.post("/dynamic/tickets/import/validate", files=file("title\nb\n"))
        assert checked.status_code == 200, checked.text
        body = Waiting()
        slow = asyncio.create_task(
            client.post("/dynamic/tickets/import/validate", content=body, headers={"content-type": "text/csv"})
        )
        await body.asked.wait()
        refused = await client.post("/dynamic/tickets/import", files=file("title\na\n"))
        assert (refused.status_code, refused.json()["code"]) == (429, "imports_busy")
        body.go_on.set()
        go_on.set()
        assert ((await first).status_code, (await slow).status_code) == (200, 200)


async def test_a_large_file_is_on_the_disk_and_not_in_memory_until_it_is_parsed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    made: list[Any] = []

    class Watched(UploadFile):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    def parse(content: bytes, filename: str, limits: ImportLimits) -> ImportTable:
        seen.append(made[0]._in_memory)
        return read_table(content, filename, limits)

    monkeypatch.setattr(uploads, "UploadFile", Watched)
    monkeypatch.setattr(imports, "read_table", parse)
    async with client_of(desk, limits=ImportLimits()) as client:
        content = b"title\n" + (b"a" * 150 + b"\n") * 9_000
        assert len(content) > uploads.SPOOLED_BYTES
        reply = await client.post(
            "/dynamic/tickets/import/validate", content=content, headers={"content-type": "text/csv"}
        )
    assert (reply.status_code, seen, made[0].file.closed) == (200, [False], True), reply.text


def file(content: bytes | str, name: str = "rows.csv") -> dict[str, Any]:
    return {"file": (name, content)}


@pytest.mark.parametrize("root", ROOTS)
async def test_an_export_is_a_download(desk: Desk, client: httpx2.AsyncClient, root: str) -> None:
    await desk.add("tickets", title="b", count=2)
    await desk.add("tickets", title="a", count=1)
    reply = await client.get(f"{root}/export", params={"columns": "title", "sortBy": "title", "order": "asc"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.headers["content-disposition"] == 'attachment; filename="tickets.csv"'
    assert list(csv.reader(io.StringIO(reply.text))) == [["title"], ["a"], ["b"]]
    as_json = await client.get(f"{root}/export", params={"columns": "title", "format": "json", "f_count": "gte:2"})
    assert as_json.json() == [{"title": "b"}]


@pytest.mark.parametrize("root", ROOTS)
async def test_the_template_can_be_filled_and_imported(client: httpx2.AsyncClient, root: str) -> None:
    template = await client.get(f"{root}/export/template")
    assert template.headers["content-disposition"] == 'attachment; filename="tickets-template.csv"'
    header = template.text.strip()
    filled = header + "\r\n" + "hello" + "," * header.count(",") + "\r\n"
    checked = await client.post(f"{root}/import/validate", files=file(filled))
    assert (checked.status_code, checked.json()["data"]["valid"]) == (200, 1)
    created = await client.post(f"{root}/import", files=file(filled))
    assert created.status_code == 200
    assert created.json() == {
        "success": True,
        "data": {"created": 1, "failed": 0, "failures": [], "ignored": []},
    }
    listed = await client.get("/dynamic/tickets")
    assert [row["title"] for row in listed.json()["data"]] == ["hello"]


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_json_body_is_imported_too(client: httpx2.AsyncClient, wrapped: bool) -> None:
    rows = [{"title": "a"}, {"title": None}]
    reply = await client.post("/dynamic/tickets/import", json={"data": rows} if wrapped else rows)
    assert reply.status_code == 200
    data = reply.json()["data"]
    assert (data["created"], data["failed"]) == (1, 1)
    assert data["failures"][0]["row"] == 2
    assert data["failures"][0]["input"] == {"title": None}


async def test_nothing_created_is_refused_with_the_reasons(client: httpx2.AsyncClient) -> None:
    reply = await client.post("/dynamic/tickets/import", files=file("title,count\n,1\nx,many\n"))
    assert reply.status_code == 422
    body = reply.json()
    assert body["success"] is False
    assert body["message"] == "no row was created"
    assert (body["data"]["created"], body["data"]["failed"]) == (0, 2)
    assert [failure["row"] for failure in body["data"]["failures"]] == [1, 2]


@pytest.mark.parametrize(
    ("request_of", "status", "reason"),
    [
        ({"files": {"other": ("x.csv", "title\na\n")}}, 400, "field 'file'"),
        ({"data": {"file": "just text"}, "files": {"x": b""}}, 400, "field 'file'"),
        ({"files": {"file": ("x.csv", "title\na\n"), "more": ("y.csv", "")}}, 400, "form cannot be read"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "form cannot be read"),
        ({"content": b"not json"}, 400, "not JSON"),
        ({"content": b'"text"'}, 400, "array of objects"),
        ({"content": b"[]"}, 400, "no rows"),
        ({"content": b'[1, null, "x", []]'}, 400, "none of the rows is an object"),
        ({"files": {"file": ("x.csv", b"\xff\xfe")}}, 400, "not UTF-8"),
        ({"files": {"file": ("x.xlsx", b"PK\x03\x04")}}, 400, "cannot be read"),
        ({"files": {"file": ("x.csv", "nonsense\n1\n")}}, 400, "no header names a column"),
        ({"files": {"file": ("x.csv", "title\n" + "a\n" * 51)}}, 413, "more than 50 rows"),
        ({"files": {"file": ("x.csv", "title\n" + "a" * 5_000)}}, 413, "larger than 5000 bytes"),
        ({"files": {"file": ("x.csv", "title\n" + "a" * 5_000_000)}}, 413, "larger than 5000 bytes"),
        ({"content": b"[" + b" " * 5_000 + b"]"}, 413, "larger than 5000 bytes"),
        ({"content": b"title\na\n", "headers": {"content-type": "text/csv"}}, 200, ""),
    ],
)
@pytest.mark.parametrize("path", ["import", "import/validate"])
async def test_what_cannot_be_imported_is_refused_clearly(
    client: httpx2.AsyncClient, path: str, request_of: dict[str, Any], status: int, reason: str
) -> None:
    reply = await client.post(f"/dynamic/tickets/{path}", **request_of)
    body = reply.json()
    assert (reply.status_code, body["success"]) == (status, status == 200)
    assert reason in body.get("message", "")


@pytest.mark.parametrize(
    ("method", "path", "capability"),
    [
        ("GET", "export", "tickets.read"),
        ("GET", "export/template", "tickets.read"),
        ("POST", "import", "tickets.import"),
        ("POST", "import/validate", "tickets.import"),
    ],
)
async def test_each_route_asks_for_its_capability(
    client: httpx2.AsyncClient, method: str, path: str, capability: str
) -> None:
    reply = await client.request(method, f"/dynamic/tickets/{path}", headers={"role": "agent"})
    assert reply.status_code == 403
    assert f'missing capability "{capability}"' in reply.json()["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "export"), ("GET", "export/template"), ("POST", "import")])
async def test_an_unknown_model_is_not_found(client: httpx2.AsyncClient, method: str, path: str) -> None:
    reply = await client.request(method, f"/dynamic/nothing/{path}")
    assert reply.status_code == 404
    assert reply.json()["success"] is False


@pytest.mark.parametrize("params", [{"format": "pdf"}, {"columns": "nonsense"}, {"f_count": "eq:x"}])
async def test_an_export_that_cannot_be_made_is_an_error_not_a_broken_file(
    client: httpx2.AsyncClient, params: dict[str, str]
) -> None:
    reply = await client.get("/dynamic/tickets/export", params=params)
    assert (reply.status_code, reply.json()["success"]) == (400, False)


@pytest.mark.parametrize("file_format", ["csv", "json", "xlsx"])
async def test_a_database_that_fails_at_the_first_row_is_an_error_not_a_broken_file(
    desk: Desk, client: httpx2.AsyncClient, file_format: str
) -> None:
    async with desk.writer.transaction(None) as connection:
        await connection.run_sync(desk.tables["tickets"].drop)
    reply = await client.get("/dynamic/tickets/export", params={"format": file_format})
    assert (reply.status_code, reply.json()["success"]) == (503, False)
