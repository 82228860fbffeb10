"""Sending all rows of a list: CSV and JSON while they are read, XLSX once it is written (contract 6).

Rows come through a cursor in one read-only transaction, so an export is one moment's picture however long it takes.
A client that stops reading cannot hold that transaction: it ends after `STALLED_SECONDS`, and that of one who reads
slowly after `EXPORT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from metacore.db.database import SET_ORGANIZATION, Database
from metacore.dynamic import export_formats, lookup, statements
from metacore.dynamic.export_formats import CONTENT_TYPES, CsvEncoder, JsonEncoder, TextEncoder, XlsxFile
from metacore.dynamic.fair_slots import FairSlots
from metacore.dynamic.import_values import importable_columns
from metacore.dynamic.query import ListQuery, parse_shaped_query
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.errors import InvalidInput, PayloadTooLarge, Unavailable
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.registry import LiveModel, Registry

BATCH_ROWS = 500
FILE_CHUNK = 1 << 16
CHUNKS_AHEAD = 4
"""Encoded batches that wait for the client at most."""
STALLED_SECONDS = 60.0
EXPORT_SECONDS = 600.0
"""From its beginning to its last chunk, an export may take so long: it holds a slot, a connection and a snapshot."""
CONCURRENT_EXPORTS = 4
"""Exports of one process that read at the same time; more wait, so that other routes keep their connections."""
EXPORTS_OF_ONE_ORGANIZATION = 2
"""Of these, so that no organization keeps others from exporting."""
SLOT_WAIT_SECONDS = 5.0
"""How long an export waits for others; then its caller is told to come back."""
LEFT_OUT = frozenset({"organization_id", "created_by_id", "deleted_at"})
"""Columns that an export has only when it is asked for them."""
TRAILING = ("created_at", "updated_at")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class ExportQuery:
    """`columns` in the order in which they are written; paging of `rows` does not count."""

    format: str
    columns: tuple[str, ...]
    rows: ListQuery


@dataclass(frozen=True, slots=True)
class Export:
    """A download. `chunks` must be closed when nobody reads on."""

    content_type: str
    filename: str
    chunks: AsyncGenerator[bytes, None]


def parse_export_query(model: LiveModel, params: Sequence[tuple[str, str]]) -> ExportQuery:
    """Read `format` (csv, json, xlsx), `columns` (comma list) and what a list reads except paging.

    Columns that the caller cannot see are dropped, as elsewhere in lists.

    Raises:
        InvalidInput: another format, no column left, or a filter value of the wrong type.
    """
    shape = shape_of(model)
    given = dict(params)
    asked = [name.strip() for name in given.get("columns", "").split(",") if name.strip()]
    columns = [name for name in dict.fromkeys(asked) if name in shape.readable_names] if asked else _columns(shape)
    if not columns:
        raise InvalidInput("columns: none of them can be exported", code="unknown_columns")
    of_rows = [(name, value) for name, value in params if name not in ("page", "per_page", "cursor", "count")]
    return ExportQuery(
        parse_format(given.get("format", "")), tuple(columns), parse_shaped_query(shape, of_rows, max_per_page=1)
    )


def parse_format(text: str) -> str:
    """`csv` (also for ''), `json` or `xlsx`. Raises InvalidInput for anything else."""
    name = text.strip().lower() or "csv"
    if name not in CONTENT_TYPES:
        raise InvalidInput("format: one of csv, json, xlsx", code="unknown_format")
    return name


class ExportService:
    """Exports of live models, in the caller's scope."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        *,
        permissions: PermissionService | None = None,
        stalled_seconds: float = STALLED_SECONDS,
        export_seconds: float = EXPORT_SECONDS,
        slot_wait_seconds: float = SLOT_WAIT_SECONDS,
    ) -> None:
        self._db = db
        self._registry = registry
        self._permissions = permissions
        self._stalled_seconds = stalled_seconds
        self._export_seconds = export_seconds
        self._slots = FairSlots(
            CONCURRENT_EXPORTS,
            EXPORTS_OF_ONE_ORGANIZATION,
            wait_seconds=slot_wait_seconds,
            what="exports",
            code="exports_busy",
        )

    async def export(self, principal: Principal, name: str, params: Sequence[tuple[str, str]]) -> Export:
        """The rows of a list as a file.

        Raises:
            NotFound, PermissionDenied, InvalidInput: before anything is read.
            TooManyRequests: by the first chunk, when others export and do not end in time.
            Unavailable: by a later chunk, when the client reads too slowly or the whole takes too long.
        """
        model = self._registry.model_for(name, principal.organization_id)
        shape = shape_of(model)
        await lookup.require_read(self._permissions, principal, shape)
        query = parse_export_query(model, params)
        organization_id = principal.organization_id
        if query.format == "xlsx":
            chunks = self._workbook(shape, organization_id, query)
        else:
            encoder = CsvEncoder(query.columns) if query.format == "csv" else JsonEncoder(query.columns)
            chunks = self._paced(self._text(shape, organization_id, query, encoder))
        return Export(CONTENT_TYPES[query.format], _filename(model, "", query.format), chunks)

    async def template(self, principal: Principal, name: str, file_format: str) -> Export:
        """An empty file with the headers that an import understands; as JSON one object without values.

        Raises:
            NotFound, PermissionDenied, InvalidInput.
        """
        model = self._registry.model_for(name, principal.organization_id)
        shape = shape_of(model)
        if self._permissions is not None:
            capabilities = (shape.capabilities["read"], shape.capabilities["import"])
            await self._permissions.require(principal, *capabilities, any_of=True)
        file_format = parse_format(file_format)
        columns = [column.name for column in importable_columns(model.definition) if column.name in shape.accepted]
        chunks = _template(columns, file_format, model.key)
        return Export(CONTENT_TYPES[file_format], _filename(model, "-template", file_format), chunks)

    @asynccontextmanager
    async def _batches(
        self, shape: ModelShape, organization_id: uuid.UUID, query: ExportQuery
    ) -> AsyncIterator[AsyncIterator[Sequence[sa.Row[Any]]]]:
        """Batches of the rows, from one snapshot."""
        dialect = self._db.dialect
        table = lookup.table_of(self._db, shape, organization_id)
        statement = (
            sa.select(*(table.c[name] for name in query.columns))
            .where(
                *lookup.scope_of(shape, table, organization_id),
                *statements.filtered(shape, table.c, query.rows, dialect),
            )
            .order_by(*statements.order_of(shape, table.c, query.rows, dialect))
        )
        values = statements.filter_values(shape, query.rows, dialect)
        async with self._slots.of(organization_id), self._db.engine.connect() as connection:
            if dialect == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                if dialect == "postgresql":
                    await connection.execute(SET_ORGANIZATION, {"organization": str(organization_id)})
                result = await connection.stream(statement, values, execution_options={"yield_per": BATCH_ROWS})
                try:
                    yield result.partitions()
                finally:
                    await result.close()

    async def _text(
        self, shape: ModelShape, organization_id: uuid.UUID, query: ExportQuery, encoder: TextEncoder
    ) -> AsyncGenerator[bytes, None]:
        with lookup.reading():
            async with self._batches(shape, organization_id, query) as batches:
                yield encoder.start()
                async for batch in batches:
                    yield await asyncio.to_thread(encoder.rows, batch)
        yield encoder.end()

    async def _workbook(
        self, shape: ModelShape, organization_id: uuid.UUID, query: ExportQuery
    ) -> AsyncGenerator[bytes, None]:
        async with _temporary_folder() as folder:
            path = folder / "export.xlsx"
            book = await asyncio.to_thread(XlsxFile, path, query.columns, title=shape.model.key)
            count = 0
            try:
                async with self._in_time():
                    with lookup.reading():
                        async with self._batches(shape, organization_id, query) as batches:
                            async for batch in batches:
                                count += len(batch)
                                _check_sheet_rows(count)
                                await asyncio.to_thread(book.rows, batch)
            finally:
                # Also when it fails: the workbook holds open files.
                await asyncio.shield(asyncio.to_thread(book.close))
            async with aclosing(self._paced(_file_chunks(path))) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _paced(self, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """`source`, read ahead a little by a task of its own, which gives up when nobody takes what it read in time."""
        queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(CHUNKS_AHEAD)

        async def read() -> None:
            end: BaseException | None = None
            try:
                async with self._in_time(), aclosing(source):
                    async for chunk in source:
                        await self._taken(queue, chunk)
            except Exception as error:
                end = error
            await queue.put(end)

        reader = asyncio.create_task(read())
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _taken(self, queue: asyncio.Queue[bytes | BaseException | None], chunk: bytes) -> None:
        try:
            async with asyncio.timeout(self._stalled_seconds):
                await queue.put(chunk)
        except TimeoutError:
            raise Unavailable(f"the client took nothing for {self._stalled_seconds:g} seconds") from None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        whole = asyncio.timeout(self._export_seconds)
        try:
            async with whole:
                yield
        except TimeoutError:
            if not whole.expired():
                raise
            raise Unavailable(
                f"the export took longer than {self._export_seconds:g} seconds; filter the rows, or read faster"
            ) from None


def _check_sheet_rows(count: int) -> None:
    most = export_formats.XLSX_MAX_ROWS
    if count > most:
        raise PayloadTooLarge(f"a sheet holds {most} rows; export csv, or filter the rows")


def _columns(shape: ModelShape) -> list[str]:
    """All that the caller may see: id, then as the table shows them, then the others, then the times."""
    shown = [cell.key for cell in shape.model.table.columns if not cell.hidden]
    others = [column.name for column in shape.readable if column.name not in TRAILING]
    ordered = dict.fromkeys(["id", *(name for name in shown if name not in TRAILING), *others, *TRAILING])
    return [name for name in ordered if name in shape.readable_names and name not in LEFT_OUT]


def _filename(model: LiveModel, suffix: str, file_format: str) -> str:
    """Safe inside a header: letters, digits, `_`, `.` and `-`."""
    return f"{_UNSAFE.sub('_', model.key)[:100]}{suffix}.{file_format}"


async def _template(columns: Sequence[str], file_format: str, title: str) -> AsyncGenerator[bytes, None]:
    if file_format == "json":
        yield export_formats.json_of([dict.fromkeys(columns)])
    elif file_format == "csv":
        yield CsvEncoder(columns).start()
    else:
        async with _temporary_folder() as folder:
            path = folder / "template.xlsx"
            await asyncio.to_thread(lambda: XlsxFile(path, columns, title=title).close())
            async with aclosing(_file_chunks(path)) as chunks:
                async for chunk in chunks:
                    yield chunk


@asynccontextmanager
async def _temporary_folder() -> AsyncIterator[Path]:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="metacore-export-"))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, True))


async def _file_chunks(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, FILE_CHUNK):
            yield chunk
    finally:
        file.close()
