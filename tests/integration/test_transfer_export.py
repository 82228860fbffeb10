"""Exports: every format, the caller's scope, one snapshot, and clients that stop reading."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import json
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from python_calamine import CalamineWorkbook
from sqlalchemy.pool import QueuePool
from tests.desk import Desk, open_desk

from metacore.db.database import Database
from metacore.dynamic import export_formats, exports
from metacore.dynamic.exports import Export, ExportService
from metacore.errors import InvalidInput, NotFound, PayloadTooLarge, PermissionDenied, TooManyRequests, Unavailable
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore


@pytest.fixture
async def postgres_desk(kernel_db: Database, owner_db: Database) -> Desk:
    return await open_desk(kernel_db, owner_db)


@pytest.fixture
async def sqlite_desk(sqlite_db: Database) -> Desk:
    return await open_desk(sqlite_db, sqlite_db)


@pytest.fixture(params=["postgres_desk", "sqlite_desk"])
def desk(request: pytest.FixtureRequest) -> Desk:
    made: Desk = request.getfixturevalue(request.param)
    return made


async def content(export: Export) -> bytes:
    async with aclosing(export.chunks) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def exported(desk: Desk, caller: Principal | None = None, **params: str) -> bytes:
    service = ExportService(desk.db, desk.registry)
    return await content(await service.export(caller or desk.caller(), "tickets", list(params.items())))


def table(document: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(document.decode(), newline="")))


def sheet(document: bytes) -> list[list[Any]]:
    with CalamineWorkbook.from_filelike(io.BytesIO(document)) as book:
        return book.get_sheet_by_index(0).to_python()


async def test_csv_has_what_the_caller_may_see(desk: Desk) -> None:
    row_id = await desk.add(
        "tickets",
        title="=cmd()",
        amount=Decimal("-12.50"),
        urgent=True,
        due=datetime.date(2026, 3, 1),
        opened_at=datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC),
        data={"a": [1]},
        token="secret",
    )
    header, row = table(await exported(desk))
    assert header == [
        *("id", "title", "status", "priority", "amount", "count", "urgent", "due", "opened_at", "customer_id"),
        *("country", "city", "currency", "data", "note", "created_at", "updated_at"),
    ]
    cells = dict(zip(header, row, strict=True))
    assert cells | {"created_at": "", "updated_at": ""} == {
        **dict.fromkeys(header, ""),
        "id": str(row_id),
        "title": "'=cmd()",
        "status": "open",
        "amount": "-12.5",
        "urgent": "true",
        "due": "2026-03-01",
        "opened_at": "2026-03-01T12:00:00Z",
        "data": '{"a":[1]}',
    }
    assert cells["created_at"].endswith("Z")


async def test_an_export_honours_filters_search_sort_and_columns_but_no_paging(desk: Desk) -> None:
    for number in range(30):
        await desk.add("tickets", title=f"Ticket {number:02}", count=number, priority="low" if number % 2 else "high")
    await desk.add("tickets", title="Other", count=1, priority="low")
    document = await exported(
        desk,
        columns=" count , title, nonsense, token",
        f_priority="low",
        search="ticket",
        sortBy="count",
        order="asc",
        page="2",
        per_page="5",
    )
    rows = table(document)
    assert rows[0] == ["count", "title"]
    assert rows[1:] == [[str(number), f"Ticket {number:02}"] for number in range(1, 30, 2)]


async def test_an_export_is_of_the_callers_organization(desk: Desk) -> None:
    await desk.add("tickets", title="mine")
    await desk.add("tickets", desk.globex, title="theirs")
    await desk.add("tickets", title="gone", deleted_at=datetime.datetime.now(datetime.UTC))
    for file_format in ("csv", "json", "xlsx"):
        document = await exported(desk, format=file_format, columns="title")
        if file_format == "json":
            assert json.loads(document) == [{"title": "mine"}]
        else:
            assert (table if file_format == "csv" else sheet)(document) == [["title"], ["mine"]]
    assert json.loads(await exported(desk, desk.caller(desk.globex), format="json", columns="title")) == [
        {"title": "theirs"}
    ]


async def test_json_keeps_types(desk: Desk) -> None:
    await desk.add("tickets", title="t", amount=Decimal("1.25"), data={"a": None}, urgent=False)
    document = await exported(desk, format="json", columns="title,amount,data,urgent,due")
    assert json.loads(document) == [{"title": "t", "amount": 1.25, "data": {"a": None}, "urgent": False, "due": None}]


async def test_many_rows_come_in_several_chunks_and_none_is_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "BATCH_ROWS", 7)
    for number in range(40):
        await desk.add("tickets", title="t", count=number)
    service = ExportService(desk.db, desk.registry)
    params = [("format", "json"), ("columns", "count"), ("sortBy", "count"), ("order", "asc")]
    export = await service.export(desk.caller(), "tickets", params)
    chunks = [chunk async for chunk in export.chunks]
    assert len(chunks) > 5
    assert [row["count"] for row in json.loads(b"".join(chunks))] == list(range(40))
    assert [row[0] for row in sheet(await exported(desk, None, **{**dict(params), "format": "xlsx"}))[1:]] == list(
        range(40)
    )


async def test_an_export_is_one_moments_picture(postgres_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "BATCH_ROWS", 2)
    monkeypatch.setattr(exports, "CHUNKS_AHEAD", 1)
    desk = postgres_desk
    for number in range(12):
        await desk.add("tickets", title="before", count=number)
    export = await ExportService(desk.db, desk.registry).export(desk.caller(), "tickets", [("columns", "title")])
    first = await anext(export.chunks)
    async with desk.writer.transaction(None) as connection:
        await connection.execute(sa.update(desk.tables["tickets"]).values(title="after"))
    await desk.add("tickets", title="after")
    rows = table(first + await content(export))
    assert rows[1:] == [["before"]] * 12


async def test_a_client_that_stops_reading_does_not_hold_the_transaction(
    postgres_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_reader(monkeypatch)
    desk = postgres_desk
    for number in range(8):
        await desk.add("tickets", title="t", count=number)
    service = ExportService(desk.db, desk.registry, stalled_seconds=0.01)
    stalled = await service.export(desk.caller(), "tickets", [])
    await anext(stalled.chunks)
    # Only one export reads at a time here, so this one begins when the stalled one has ended its transaction.
    async with asyncio.timeout(20):
        assert len(table(await content(await service.export(desk.caller(), "tickets", [])))) == 9
    with pytest.raises(Unavailable, match="took nothing"):
        await content(stalled)


@pytest.mark.parametrize("file_format", ["csv", "xlsx"])
async def test_a_client_that_reads_slowly_loses_the_export_in_the_end(
    postgres_desk: Desk, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    slow_reader(monkeypatch)
    monkeypatch.setattr(exports, "FILE_CHUNK", 16)
    desk = postgres_desk
    for number in range(8):
        await desk.add("tickets", title="t", count=number)
    # As slow as somebody who reads a chunk just before it counts as stalled: the deadline alone can end this one.
    service = ExportService(desk.db, desk.registry, export_seconds=2, slot_wait_seconds=60)
    slow = await service.export(desk.caller(), "tickets", [("format", file_format)])
    await anext(slow.chunks)
    # Its time runs. The next one waits for its slot, and has all the time there is.
    monkeypatch.setattr(service, "_export_seconds", 600.0)
    async with asyncio.timeout(60):
        assert len(table(await content(await service.export(desk.caller(), "tickets", [])))) == 9
        with pytest.raises(Unavailable, match="the export took longer than"):
            await slow_content(slow)
    pool = desk.db.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0


async def slow_content(export: Export) -> None:
    async with aclosing(export.chunks) as chunks:
        async for _ in chunks:
            await asyncio.sleep(0.1)


async def test_one_organization_cannot_keep_others_from_exporting(
    postgres_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCH_ROWS", "CHUNKS_AHEAD"):
        monkeypatch.setattr(exports, name, 1)
    desk = postgres_desk
    for number in range(8):
        await desk.add("tickets", title="t", count=number)
    service = ExportService(desk.db, desk.registry, slot_wait_seconds=0.05)
    held = [await service.export(desk.caller(), "tickets", []) for _ in range(2)]
    for export in held:
        await anext(export.chunks)
    for file_format in ("csv", "xlsx"):
        one_more = await service.export(desk.caller(), "tickets", [("format", file_format)])
        with pytest.raises(TooManyRequests, match="too many exports") as refused:
            await anext(one_more.chunks)
        assert (refused.value.code, refused.value.retry_after) == ("exports_busy", 10)
    other = await service.export(desk.caller(desk.globex), "tickets", [])
    assert len(table(await content(other))) == 1
    for export in held:
        await export.chunks.aclose()
    assert len(table(await content(await service.export(desk.caller(), "tickets", [])))) == 9


@pytest.mark.parametrize("file_format", ["csv", "xlsx"])
async def test_a_client_that_goes_away_ends_the_export(
    postgres_desk: Desk, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    slow_reader(monkeypatch)
    desk = postgres_desk
    for number in range(8):
        await desk.add("tickets", title="t", count=number)
    service = ExportService(desk.db, desk.registry)
    left = await service.export(desk.caller(), "tickets", [("format", file_format)])
    await anext(left.chunks)
    await left.chunks.aclose()
    pool = desk.db.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    async with asyncio.timeout(20):
        assert len(table(await content(await service.export(desk.caller(), "tickets", [])))) == 9


def slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a batch, one batch ahead, one export at a time."""
    for name in ("BATCH_ROWS", "CHUNKS_AHEAD", "CONCURRENT_EXPORTS"):
        monkeypatch.setattr(exports, name, 1)


async def test_a_sheet_that_would_be_too_long_is_refused_before_anything_is_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_formats, "XLSX_MAX_ROWS", 1)
    for _ in range(2):
        await desk.add("tickets", title="t")
    export = await ExportService(desk.db, desk.registry).export(desk.caller(), "tickets", [("format", "xlsx")])
    with pytest.raises(PayloadTooLarge, match="export csv"):
        await anext(export.chunks)


async def test_the_template_has_the_headers_of_an_import(desk: Desk) -> None:
    service = ExportService(desk.db, desk.registry)

    async def template(file_format: str) -> bytes:
        return await content(await service.template(desk.caller(), "tickets", file_format))

    columns = [
        *("title", "status", "priority", "amount", "count", "urgent", "due", "opened_at", "customer_id"),
        *("country", "city", "currency", "token", "note", "data"),
    ]
    assert table(await template("")) == [columns]
    assert sheet(await template("xlsx")) == [columns]
    assert json.loads(await template("json")) == [dict.fromkeys(columns)]


async def test_a_download_is_named_after_the_model(desk: Desk) -> None:
    service = ExportService(desk.db, desk.registry)
    export = await service.export(desk.caller(), "customers", [("format", "xlsx")])
    assert (export.filename, export.content_type) == ("Customer.xlsx", export_formats.XLSX_TYPE)
    await export.chunks.aclose()
    template = await service.template(desk.caller(), "tickets", "csv")
    assert (template.filename, template.content_type) == ("tickets-template.csv", "text/csv; charset=utf-8")
    await template.chunks.aclose()


async def test_exports_need_the_model_the_right_and_a_known_format(desk: Desk) -> None:
    store = MemoryPermissionStore()
    guarded = ExportService(desk.db, desk.registry, permissions=PermissionService(store))
    agent = desk.caller(role="agent")
    with pytest.raises(PermissionDenied, match=r"tickets\.read"):
        await guarded.export(agent, "tickets", [])
    with pytest.raises(PermissionDenied):
        await guarded.template(agent, "tickets", "csv")
    await store.grant_role(desk.acme, "agent", "tickets.import")
    await (await guarded.template(agent, "tickets", "csv")).chunks.aclose()
    with pytest.raises(NotFound):
        await guarded.export(desk.caller(desk.globex), "cities", [])
    for params in ({"format": "pdf"}, {"columns": "token,nonsense"}, {"f_count": "eq:many"}):
        with pytest.raises(InvalidInput):
            await exported(desk, None, **params)
