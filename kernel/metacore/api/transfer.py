"""Files of rows, out and in (contract 6)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from metacore.api import envelope
from metacore.api.deps import PrincipalDependency
from metacore.api.errors import failure_body, status_of
from metacore.api.records import parse_query
from metacore.api.route import KernelRoute
from metacore.dynamic.exports import Export, ExportService
from metacore.dynamic.imports import ImportReport, ImportService
from metacore.errors import InvalidInput, PayloadTooLarge, Refused
from metacore.identity import Principal

ROOTS = (("/dynamic/{model}", True), ("/data/{model}/me", False), ("/data/{model}", False))
FORM_OVERHEAD = 65_536
"""Bytes that a form may have besides its file: boundaries, headers, small fields."""
MAX_FIELDS = 16

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


class _TooLarge(MultiPartException):
    """Of this kind, so that the parser closes what it has spooled."""


def build_transfer_router(exports: ExportService, imports: ImportService, principal: PrincipalDependency) -> APIRouter:
    """`/export`, `/export/template`, `/import`, `/import/validate` of rows. Include it before the routes of rows."""
    router = APIRouter(route_class=KernelRoute, tags=["transfer"])
    Caller = Annotated[Principal, Depends(principal)]  # noqa: N806 - a type.

    async def export(request: Request, model: str, who: Caller) -> Response:
        return await _download(await exports.export(who, model, parse_query(request.scope["query_string"])))

    async def template(model: str, who: Caller, format: str = "") -> Response:
        return await _download(await exports.template(who, model, format))

    async def import_rows(request: Request, model: str, who: Caller) -> Response:
        report = await _imported(request, model, who, imports, imports.run)
        body: dict[str, Any] = {"success": True, "data": report.imported_json()}
        if len(report.failures) < len(report.rows):
            return envelope.raw(await asyncio.to_thread(envelope.dumps, body))
        nothing = Refused("no row was created", code="nothing_imported")
        body = failure_body(nothing) | {"data": body["data"]}
        return envelope.raw(await asyncio.to_thread(envelope.dumps, body), status=status_of(nothing))

    async def validate(request: Request, model: str, who: Caller) -> Response:
        report = await _imported(request, model, who, imports, imports.validate)
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


Importing = Callable[[Principal, str, bytes, str], Awaitable[ImportReport]]


async def _imported(
    request: Request, model: str, who: Principal, imports: ImportService, run: Importing
) -> ImportReport:
    # Before the body: nobody sends megabytes in order to be refused.
    await imports.open(who, model)
    content, filename = await read_upload(request, imports.limits.max_bytes)
    return await run(who, model, content, filename)


async def read_upload(request: Request, max_bytes: int) -> tuple[bytes, str]:
    """The file of a form (field `file`) or the body itself, and a name that tells its format.

    Raises:
        InvalidInput: a form without the file, or one that cannot be read.
        PayloadTooLarge: as soon as more than `max_bytes` have come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            return await _form_file(request, max_bytes)
        chunks = [chunk async for chunk in _bounded(request.stream(), max_bytes)]
    except _TooLarge:
        raise PayloadTooLarge(f"the file is larger than {max_bytes} bytes") from None
    return b"".join(chunks), "body.csv" if kind == "text/csv" else "body.json"


async def _form_file(request: Request, max_bytes: int) -> tuple[bytes, str]:
    stream = _bounded(request.stream(), max_bytes + FORM_OVERHEAD)
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=MAX_FIELDS).parse()
    except _TooLarge:
        raise
    except MultiPartException as error:
        raise InvalidInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("the form needs a file in its field 'file'", code="file_required")
        return await file.read(), file.filename or ""
    finally:
        await form.close()


async def _bounded(stream: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > limit:
            raise _TooLarge("too large")
        yield chunk
