"""Files of rows, out and in (contract 6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from metacore.api import envelope
from metacore.api.deps import PrincipalDependency
from metacore.api.errors import failure_body, status_of
from metacore.api.records import parse_query
from metacore.api.route import KernelRoute
from metacore.api.uploads import uploaded_body, uploaded_form
from metacore.dynamic.exports import Export, ExportService
from metacore.dynamic.imports import Import, ImportService, Read
from metacore.errors import InvalidInput, Refused
from metacore.identity import Principal

ROOTS = (("/dynamic/{model}", True), ("/data/{model}/me", False), ("/data/{model}", False))
MAX_FIELDS = 16
MAX_FIELD_BYTES = 1_048_576
"""Of one that is no file. All of them together have as much as the form may have besides its file."""

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    }
}


class ClosingStream(StreamingResponse):
    """Closes the export also when the client went away: its transaction must not wait for garbage collection."""

    def __init__(self, export: Export, first: bytes, *, headers: dict[str, str]) -> None:
        super().__init__(_after(first, export.chunks), media_type=export.content_type, headers=headers)
        self._export = export

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._export.chunks):
            await super().stream_response(send)


def build_transfer_router(exports: ExportService, imports: ImportService, principal: PrincipalDependency) -> APIRouter:
    """`/export`, `/export/template`, `/import`, `/import/validate` of rows. Include it before the routes of rows."""
    router = APIRouter(route_class=KernelRoute, tags=["transfer"])
    Caller = Annotated[Principal, Depends(principal)]  # noqa: N806 - a type.

    async def export(request: Request, model: str, who: Caller) -> Response:
        return await _download(await exports.export(who, model, parse_query(request.scope["query_string"])))

    async def template(model: str, who: Caller, format: str = "") -> Response:
        return await _download(await exports.template(who, model, format))

    async def import_rows(request: Request, model: str, who: Caller) -> Response:
        async with _admitted(request, model, who, imports) as (admitted, read, name):
            report = await admitted.run(read, name)
        body: dict[str, Any] = {"success": True, "data": report.imported_json()}
        if len(report.failures) < len(report.rows):
            return envelope.raw(await asyncio.to_thread(envelope.dumps, body))
        nothing = Refused("no row was created", code="nothing_imported")
        body = failure_body(nothing) | {"data": body["data"]}
        return envelope.raw(await asyncio.to_thread(envelope.dumps, body), status=status_of(nothing))

    async def validate(request: Request, model: str, who: Caller) -> Response:
        async with _admitted(request, model, who, imports) as (admitted, read, name):
            report = await admitted.validate(read, name)
        body = {"success": True, "data": report.validated_json()}
        return envelope.raw(await asyncio.to_thread(envelope.dumps, body))

    for root, shown in ROOTS:
        for path, endpoint, summary in (("export", export, "Rows as a file"), ("export/template", template, "Headers")):
            router.add_api_route(f"{root}/{path}", endpoint, methods=["GET"], summary=summary, include_in_schema=shown)
        for path, endpoint, summary in (
            ("import", import_rows, "Create rows from a file"),
            ("import/validate", validate, "Check a file without writing"),
        ):
            router.add_api_route(
                f"{root}/{path}",
                endpoint,
                methods=["POST"],
                summary=summary,
                include_in_schema=shown,
                openapi_extra=UPLOAD,
            )
    return router


async def _download(export: Export) -> Response:
    """The reply begins with the first chunk: what fails before it is still an error of its own."""
    try:
        first = await anext(export.chunks, b"")
    except BaseException:
        await export.chunks.aclose()
        raise
    headers = {
        "Content-Disposition": f'attachment; filename="{export.filename}"',
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return ClosingStream(export, first, headers=headers)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


@asynccontextmanager
async def _admitted(
    request: Request, model: str, who: Principal, imports: ImportService
) -> AsyncIterator[tuple[Import, Read, str]]:
    """An import with what reads its file, once, and the file's name. It is received only in a turn of the caller's:
    nobody sends megabytes in order to be refused."""
    loop = asyncio.get_running_loop()
    async with (
        imports.receiving(who, model) as received,
        read_upload(request, imports.limits.max_bytes) as file,
        imports.admitted(who, model) as admitted,
    ):

        def read() -> bytes:
            with file.file as spooled:
                content = spooled.read()
            # Rows may take minutes; the turn is about what is on the disk.
            loop.call_soon_threadsafe(received)
            return content

        yield admitted, read, file.filename or ""


@asynccontextmanager
async def read_upload(request: Request, max_bytes: int) -> AsyncIterator[UploadFile]:
    """The file of a form (field `file`) or the body itself, with a name that tells its format.

    Raises:
        InvalidInput: a form without the file, or one that cannot be read.
        PayloadTooLarge: as soon as more than `max_bytes` have come. TooSlow: it does not come in reasonable time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        name = "body.csv" if kind == "text/csv" else "body.json"
        async with uploaded_body(request, "file", max_bytes, name) as body:
            yield body
        return
    async with uploaded_form(
        request, "file", max_bytes, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    ) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("the form needs a file in its field 'file'", code="file_required")
        yield file
