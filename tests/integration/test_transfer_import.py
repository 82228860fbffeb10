"""Imports: each row through the normal path of a create, reported row by row."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
import xlsxwriter
from tests.desk import Desk, open_desk

from metacore.db.database import Database
from metacore.dynamic import imports
from metacore.dynamic.exports import ExportService
from metacore.dynamic.hook_points import HookContext, HookRegistry
from metacore.dynamic.import_files import ImportLimits, ImportTable, read_table
from metacore.dynamic.imports import ImportReport, ImportService
from metacore.dynamic.service import DynamicService
from metacore.errors import InvalidInput, NotFound, PayloadTooLarge, PermissionDenied, Refused, TooManyRequests
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


def service(desk: Desk, *, hooks: HookRegistry | None = None, **more: Any) -> ImportService:
    return ImportService(DynamicService(desk.db, desk.registry, hooks=hooks), desk.registry, **more)


async def imported(desk: Desk, content: str | bytes, name: str = "x.csv", model: str = "tickets") -> ImportReport:
    raw = content.encode() if isinstance(content, str) else content
    return await service(desk).run(desk.caller(), model, raw, name)


async def stored(desk: Desk, *columns: str) -> list[tuple[Any, ...]]:
    table = desk.tables["tickets"]
    statement = sa.select(*(table.c[name] for name in columns)).order_by(table.c.title)
    async with desk.writer.transaction(desk.acme) as connection:
        return [tuple(row) for row in await connection.execute(statement)]


def workbook(*lines: list[Any]) -> bytes:
    written = io.BytesIO()
    book = xlsxwriter.Workbook(written, {"in_memory": True})
    sheet = book.add_worksheet()
    for number, line in enumerate(lines):
        sheet.write_row(number, 0, line)
    book.close()
    return written.getvalue()


async def test_rows_of_csv_are_created_as_the_caller(desk: Desk) -> None:
    report = await imported(
        desk,
        "Subject,count,urgent,status,data,id,organization_id\n"
        f'a,5,yes,All done,"{{""k"": 1}}",{uuid.uuid4()},{desk.globex}\n'
        "'=b,,,,,,\n",
    )
    assert report.imported_json() == {
        "created": 2,
        "failed": 0,
        "failures": [],
        "ignored": ["id", "organization_id"],
    }
    rows = await stored(desk, "title", "count", "urgent", "status", "data", "organization_id")
    assert rows == [("=b", None, None, "open", None, desk.acme), ("a", 5, True, "done", {"k": 1}, desk.acme)]


async def test_a_workbook_and_json_are_created_too(desk: Desk) -> None:
    await imported(desk, workbook(["title", "count"], ["sheet", 3.0]), "x.xlsx")
    await imported(desk, '[{"title": "array", "count": 1}]', "x.json")
    await imported(desk, '{"data": [{"title": "wrapped", "count": 2}]}', "upload")
    assert await stored(desk, "title", "count") == [("array", 1), ("sheet", 3), ("wrapped", 2)]


async def test_a_row_that_fails_is_reported_and_the_others_are_created(desk: Desk) -> None:
    report = await imported(
        desk, "title,count,token\ngood,1,\n,2,hush\nbad,many,hush\nlong,1,hush,extra\n\nlast,3,hush\n"
    )
    assert await stored(desk, "title", "token") == [("good", None), ("last", "hush")]
    body = report.imported_json()
    assert (body["created"], body["failed"]) == (2, 3)
    assert [(failure["row"], failure["input"]) for failure in body["failures"]] == [
        (2, {"count": 2}),
        (3, {"title": "bad", "count": "many"}),
        (4, {}),
    ]
    assert body["failures"][0]["errors"] == [{"field": "title", "code": "required", "message": "is required"}]
    assert "count" in body["failures"][1]["error"]
    assert "more cells" in body["failures"][2]["error"]
    assert "hush" not in json.dumps(body)


async def test_hooks_see_every_row_and_may_refuse_it(desk: Desk) -> None:
    hooks = HookRegistry()

    @hooks.before_create("tickets")
    async def polite(_context: HookContext, values: dict[str, Any]) -> Mapping[str, Any]:
        if values["title"] == "rude":
            raise Refused("no rudeness")
        return {**values, "title": values["title"].upper()}

    report = await service(desk, hooks=hooks).run(desk.caller(), "tickets", b"title\nkind\nrude\n", "x.csv")
    assert await stored(desk, "title") == [("KIND",)]
    assert [(failure.row, failure.error) for failure in report.failures] == [(2, "no rudeness")]


async def test_an_unexpected_failure_stays_with_its_row(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    hooks = HookRegistry()

    @hooks.before_create("tickets")
    async def broken(_context: HookContext, values: dict[str, Any]) -> None:
        if values["title"] == "b":
            raise RuntimeError("internals")

    report = await service(desk, hooks=hooks).run(desk.caller(), "tickets", b"title\na\nb\nc\n", "x.csv")
    assert [(failure.row, failure.error) for failure in report.failures] == [(2, "internal error")]
    assert await stored(desk, "title") == [("a",), ("c",)]
    assert "row 2 failed" in caplog.text


async def test_creates_run_side_by_side_within_bounds(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "CONCURRENT_ROWS", 3)
    running, most = 0, 0

    class Counting:
        async def create(self, _principal: Principal, _name: str, _values: Mapping[str, Any]) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    counting = ImportService(Counting(), sqlite_desk.registry)
    content = "title\n" + "t\n" * 20
    report = await counting.run(sqlite_desk.caller(), "tickets", content.encode(), "x.csv")
    assert (most, [row.row for row in report.rows]) == (3, list(range(1, 21)))


async def test_validation_reports_every_row_and_writes_nothing(desk: Desk) -> None:
    hooks = HookRegistry()
    called: list[str] = []

    @hooks.before_create("*")
    async def note(_context: HookContext, values: dict[str, Any]) -> None:
        called.append(values["title"])

    content = "title,count,nonsense,token\ngood,1,x,hush\n,2,,hush\nbad,many,,hush\n"
    report = await service(desk, hooks=hooks).validate(desk.caller(), "tickets", content.encode(), "x.csv")
    body = report.validated_json()
    assert (body["total"], body["valid"], body["invalid"], body["ignored"]) == (3, 1, 2, ["nonsense"])
    assert body["rows"][0] == {"row": 1, "valid": True}
    assert body["rows"][1] == {
        "row": 2,
        "valid": False,
        "error": "title: is required",
        "errors": [{"field": "title", "code": "required", "message": "is required"}],
        "input": {"count": 2},
    }
    assert [row["valid"] for row in body["rows"]] == [True, False, False]
    assert "hush" not in json.dumps(body)
    assert called == []
    assert await desk.count("tickets") == 0


async def test_validation_agrees_with_the_import_on_organization_rules(desk: Desk) -> None:
    async def rules(_organization: uuid.UUID) -> Mapping[str, Any]:
        return {"word": {"regex": "^[a-z]+$", "message": "lower case only"}}

    live = desk.registry.snapshot.models["tickets"]
    title = live.definition.columns[0]
    rule = title.validation.model_copy(update={"custom": "$org.word"})
    object.__setattr__(title, "validation", rule)
    try:
        dynamic = DynamicService(desk.db, desk.registry, validators=rules)
        importing = ImportService(dynamic, desk.registry, validators=rules)
        content = b"title\nfine\nNot Fine\n"
        checked = await importing.validate(desk.caller(), "tickets", content, "x.csv")
        created = await importing.run(desk.caller(), "tickets", content, "x.csv")
    finally:
        object.__setattr__(title, "validation", rule.model_copy(update={"custom": ""}))
    for report in (checked, created):
        assert [(failure.row, failure.error) for failure in report.failures] == [(2, "title: lower case only")]


async def test_an_export_can_be_imported_again(desk: Desk) -> None:
    await imported(desk, '[{"title": "=1+1", "amount": 12.5, "data": {"a": 1}, "due": "2026-03-01", "note": "\'=x"}]')
    columns = ("title", "amount", "data", "due", "note")
    before = await stored(desk, *columns)
    for file_format in ("csv", "json", "xlsx"):
        export = await ExportService(desk.db, desk.registry).export(
            desk.caller(), "tickets", [("format", file_format), ("columns", ",".join(columns))]
        )
        content = b"".join([chunk async for chunk in export.chunks])
        async with desk.writer.transaction(desk.acme) as connection:
            await connection.execute(sa.delete(desk.tables["tickets"]))
        report = await imported(desk, content, export.filename)
        assert report.failures == ()
        assert await stored(desk, *columns) == before


async def test_an_import_needs_its_own_right_and_only_that(desk: Desk) -> None:
    store = MemoryPermissionStore()
    guarded = service(desk, permissions=PermissionService(store))
    agent = desk.caller(role="agent")
    await store.grant_role(desk.acme, "agent", "tickets.create")
    for call in (guarded.run, guarded.validate):
        with pytest.raises(PermissionDenied, match=r"tickets\.import"):
            await call(agent, "tickets", b"title\na\n", "x.csv")
    await store.revoke_role(desk.acme, "agent", "tickets.create")
    await store.grant_role(desk.acme, "agent", "tickets.import")
    report = await guarded.run(agent, "tickets", b"title\na\n", "x.csv")
    assert report.failures == ()


@pytest.mark.parametrize("importable", [False, {"enabled": False}])
async def test_a_model_may_refuse_imports(sqlite_desk: Desk, importable: Any) -> None:
    definition = sqlite_desk.registry.snapshot.models["tickets"].definition
    object.__setattr__(definition, "importable", importable)
    try:
        with pytest.raises(Refused, match="takes no imports"):
            await imported(sqlite_desk, "title\na\n")
    finally:
        object.__setattr__(definition, "importable", True)


async def test_files_that_cannot_be_imported_are_refused_as_a_whole(sqlite_desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="no header names a column of 'tickets'; there are title, status"):
        await imported(sqlite_desk, "nonsense\n1\n")
    with pytest.raises(InvalidInput, match="no rows"):
        await imported(sqlite_desk, "title\n")
    with pytest.raises(NotFound):
        await imported(sqlite_desk, "title\na\n", model="nothing")
    small = service(sqlite_desk, limits=ImportLimits(max_rows=1))
    with pytest.raises(PayloadTooLarge, match="more than 1 rows"):
        await small.run(sqlite_desk.caller(), "tickets", b"title\na\nb\n", "x.csv")
    assert await sqlite_desk.count("tickets") == 0


def held_parsing(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Semaphore, threading.Event]:
    """Whoever parses releases the first and waits for the second."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def parse(*given: Any) -> ImportTable:
        entered.release()
        assert go_on.wait(60)
        return read_table(*given)

    monkeypatch.setattr(imports, "read_table", parse)
    return entered, go_on


async def test_two_files_are_parsed_at_a_time_of_different_organizations(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = held_parsing(monkeypatch)
    made = service(sqlite_desk, slot_wait_seconds=0.05)
    acme, globex, third = (sqlite_desk.caller(id) for id in (sqlite_desk.acme, sqlite_desk.globex, uuid.uuid4()))
    snapshot = sqlite_desk.registry.snapshot
    installed = {**snapshot.installed, third.organization_id: snapshot.installed[sqlite_desk.acme]}
    sqlite_desk.registry.replace(snapshot.revision + 1, snapshot.addons, installed)
    try:
        begun = [asyncio.create_task(made.validate(acme, "tickets", b"title\na\n", "x.csv"))]
        assert await asyncio.to_thread(entered.acquire, timeout=60)
        with pytest.raises(TooManyRequests, match="too many imports") as refused:
            await made.validate(acme, "tickets", b"title\na\n", "x.csv")
        assert (refused.value.code, refused.value.retry_after) == ("imports_busy", 10)
        begun.append(asyncio.create_task(made.run(globex, "tickets", b"title\na\n", "x.csv")))
        assert await asyncio.to_thread(entered.acquire, timeout=60)
        with pytest.raises(TooManyRequests):
            await made.run(third, "tickets", b"title\na\n", "x.csv")
    finally:
        go_on.set()
    assert [len(report.rows) for report in await asyncio.gather(*begun)] == [1, 1]
    assert len((await made.validate(acme, "tickets", b"title\na\n", "x.csv")).rows) == 1


async def test_a_file_is_read_as_soon_as_it_may_be_parsed_and_not_before(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = held_parsing(monkeypatch)
    made, reads = service(sqlite_desk), []

    async def validate(number: int) -> int:
        def read() -> bytes:
            reads.append(number)
            return b"title\na\n"

        async with made.admitted(sqlite_desk.caller(), "tickets") as one:
            return len((await one.validate(read, "x.csv")).rows)

    begun = [asyncio.create_task(validate(1))]
    try:
        assert await asyncio.to_thread(entered.acquire, timeout=60)
        begun.append(asyncio.create_task(validate(2)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert reads == [1], "of one organization one file is parsed at a time"
    finally:
        go_on.set()
    assert (await asyncio.gather(*begun), reads) == ([1, 1], [1, 2])


async def test_one_organization_imports_two_files_at_a_time(sqlite_desk: Desk) -> None:
    creating, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def wait(_context: HookContext, _values: Mapping[str, Any]) -> None:
        creating.release()
        await go_on.wait()

    hooks = HookRegistry()
    hooks.register("before_create", "tickets", wait)
    made = service(sqlite_desk, hooks=hooks, slot_wait_seconds=0.05)
    acme, globex = sqlite_desk.caller(), sqlite_desk.caller(sqlite_desk.globex)
    begun = []
    for _ in range(2):
        begun.append(asyncio.create_task(made.run(acme, "tickets", b"title\na\n", "x.csv")))
        await creating.acquire()
    with pytest.raises(TooManyRequests):
        await made.run(acme, "tickets", b"title\na\n", "x.csv")
    assert len((await made.validate(globex, "tickets", b"title\na\n", "x.csv")).rows) == 1
    go_on.set()
    assert [report.failures for report in await asyncio.gather(*begun)] == [(), ()]
