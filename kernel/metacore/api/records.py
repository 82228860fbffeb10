"""Rows over HTTP: one endpoint that the fast lane and the FastAPI routes share, so both answer the same bytes."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.api import envelope, etags
from metacore.api.deps import PrincipalDependency
from metacore.api.errors import failure_body, status_of
from metacore.api.model_schemas import IF_MATCH, LIST_PARAMETERS, OBJECT_BODY
from metacore.api.route import KernelRoute, refuse_nul
from metacore.dynamic.rows import tag_of_envelope
from metacore.dynamic.service import DynamicService
from metacore.errors import InvalidInput, MetacoreError, PayloadTooLarge
from metacore.identity import Principal
from metacore.ids import parse_uuid

MAX_QUERY_FIELDS = 200
COLLECTION_METHODS = frozenset({"GET", "POST"})
LISTED: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
        for name, schema, description in LIST_PARAMETERS
    ]
}
CONDITIONAL: dict[str, Any] = {"parameters": [IF_MATCH]}
ROW_METHODS = frozenset({"GET", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Conditions:
    """The headers If-Match and If-None-Match of a request, None where it has none."""

    if_match: str | None = None
    if_none_match: str | None = None


UNCONDITIONAL = Conditions()


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is JSON, empty for 304; `tag` is the row's entity tag, '' where the reply is no row."""

    status: int
    body: bytes
    tag: str = ""


@dataclass(frozen=True, slots=True)
class RecordsEndpoint:
    """CRUD requests in, statuses and JSON bytes out. `max_body_bytes` bounds a JSON body."""

    dynamic: DynamicService
    max_body_bytes: int

    async def respond(
        self,
        principal: Principal,
        method: str,
        model: str,
        row: str | None,
        query: bytes,
        body: bytes,
        conditions: Conditions = UNCONDITIONAL,
    ) -> Reply:
        """Serve one request. `row` is the id as it stands in the URL, `query` the raw query string.

        Raises:
            MetacoreError: whatever the service refuses; the caller renders it.
        """
        if row is None:
            if method == "GET":
                return Reply(200, await self.dynamic.list_json(principal, model, parse_query(query)))
            return _row(201, await self.dynamic.create_json(principal, model, self.parse_body(body)))
        row_id = parse_uuid(row)
        if query:
            refuse_nul(query)
        if method == "GET":
            reply = _row(200, await self.dynamic.get_json(principal, model, row_id))
            known = etags.matches(conditions.if_none_match, reply.tag)
            return Reply(304, b"", reply.tag) if known else reply
        tags = etags.tags_of(conditions.if_match)
        if method == "DELETE":
            await self.dynamic.delete(principal, model, row_id, tags=tags)
            return Reply(200, envelope.dumps({"success": True, "data": {"id": row_id}}))
        values = self.parse_body(body)
        return _row(200, await self.dynamic.update_json(principal, model, row_id, values, tags=tags))

    def parse_body(self, body: bytes) -> dict[str, Any]:
        """The JSON object of a request.

        Raises:
            InvalidInput: not JSON, or JSON that is not an object.
            PayloadTooLarge: more than `max_body_bytes`.
        """
        if len(body) > self.max_body_bytes:
            raise PayloadTooLarge(f"the body is larger than {self.max_body_bytes} bytes")
        try:
            values = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is not JSON: {error}", code="invalid_json") from error
        if not isinstance(values, dict):
            raise InvalidInput(f"the body must be a JSON object, not {_kind(values)}", code="invalid_json")
        return values


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The fields of a query string, in order.

    Raises:
        InvalidInput: more than 200 fields, percent-escapes that are not UTF-8, or the character U+0000.
    """
    if not query:
        return []
    refuse_nul(query)
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except UnicodeDecodeError as error:
        raise InvalidInput("the query string is not valid UTF-8", code="invalid_query") from error
    except ValueError as error:
        raise InvalidInput(f"the query string has more than {MAX_QUERY_FIELDS} fields", code="invalid_query") from error


def render_failure(error: MetacoreError) -> Reply:
    return Reply(status_of(error), envelope.dumps(failure_body(error)))


def build_records_router(endpoint: RecordsEndpoint, authenticated: PrincipalDependency) -> APIRouter:
    """The same routes for FastAPI: they answer where no lane stands in front, and they describe themselves in /docs."""
    router = APIRouter(route_class=KernelRoute, tags=["records"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    async def collection(request: Request, model: str, principal: Caller) -> Response:
        return await _reply(endpoint, request, principal, model, None)

    async def row(request: Request, model: str, id: str, principal: Caller) -> Response:
        return await _reply(endpoint, request, principal, model, id)

    for root, shown in (("/dynamic/{model}", True), ("/data/{model}/me", False), ("/data/{model}", False)):
        for method, what, extra in (("GET", "List rows", LISTED), ("POST", "Create a row", OBJECT_BODY)):
            router.add_api_route(
                root, collection, methods=[method], summary=what, include_in_schema=shown, openapi_extra=extra
            )
        for method, what, extra in (
            ("GET", "Read a row", {}),
            ("PUT", "Change a row", {**OBJECT_BODY, **CONDITIONAL}),
            ("PATCH", "Change a row", {**OBJECT_BODY, **CONDITIONAL}),
            ("DELETE", "Delete a row", CONDITIONAL),
        ):
            router.add_api_route(
                f"{root}/{{id}}", row, methods=[method], summary=what, include_in_schema=shown, openapi_extra=extra
            )
    return router


async def _reply(
    endpoint: RecordsEndpoint, request: Request, principal: Principal, model: str, row: str | None
) -> Response:
    conditions = Conditions(_lines(request, "if-match"), _lines(request, "if-none-match"))
    reply = await endpoint.respond(
        principal, request.method, model, row, request.scope["query_string"], await request.body(), conditions
    )
    headers = {"ETag": etags.quoted(reply.tag)} if reply.tag else None
    if not reply.body:
        return Response(status_code=reply.status, headers=headers)
    return envelope.raw(reply.body, status=reply.status, headers=headers)


def _lines(request: Request, name: str) -> str | None:
    """A list that may come in several lines, as one."""
    lines = request.headers.getlist(name)
    return ",".join(lines) if lines else None


def _row(status: int, body: bytes) -> Reply:
    return Reply(status, body, tag_of_envelope(body))


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {list: "an array", str: "a string", bool: "a boolean"}.get(type(value), "a number")
