"""Every HTTP status of a failure, and the one place that turns an exception into a reply."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from metacore import errors
from metacore.api import envelope

STATUS: Mapping[type[errors.MetacoreError], int] = {
    errors.InvalidInput: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.StaleVersion: 412,
    errors.PayloadTooLarge: 413,
    errors.Refused: 422,
    errors.TooManyRequests: 429,
    errors.NotWired: 501,
    errors.Unavailable: 503,
}

FRAMEWORK_CODES: Mapping[int, str] = {400: "invalid_input", 404: "not_found", 405: "method_not_allowed"}
"""The `code` of a failure that the framework raises, by status."""

MAX_PROBLEMS, MAX_NAME, MAX_PATH = 50, 64, 200
"""How much of a hostile request is told back: problems, characters of a field's name and of a path."""

NO_OBJECT = frozenset({"model_attributes_type", "model_type", "dict_type"})
"""What pydantic calls a value that is no JSON object."""

INTERNAL_ERROR = "internal error"


def status_of(error: errors.MetacoreError) -> int:
    """The status of the nearest class in the error tree that has one; 500 for those that callers must not see."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def failure_body(error: errors.MetacoreError) -> dict[str, Any]:
    """`{"success": false, "message", "code", "errors"?}`; internals of a 500 stay out."""
    if status_of(error) == 500:
        return {"success": False, "message": INTERNAL_ERROR, "code": "internal"}
    body: dict[str, Any] = {"success": False, "message": error.message, "code": error.code}
    if error.problems:
        body["errors"] = [problem.as_json() for problem in error.problems]
    return body


def failure(error: errors.MetacoreError) -> Response:
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers = {**(headers or {}), "Retry-After": str(max(1, round(retry_after)))}
    return envelope.raw(envelope.dumps(failure_body(error)), status=status, headers=headers)


def from_validation(error: RequestValidationError) -> errors.InvalidInput:
    """What FastAPI found wrong with a body, path or query, in the contract's words."""
    problems: list[errors.Problem] = []
    for item in error.errors()[:MAX_PROBLEMS]:
        kind, location = str(item.get("type", "invalid")), item.get("loc", ())
        if kind == "json_invalid":
            return errors.InvalidInput("the body is not JSON", code="invalid_json")
        if kind in NO_OBJECT and tuple(location) == ("body",):
            return errors.InvalidInput(
                "the body must be a JSON object, sent with Content-Type: application/json", code="invalid_json"
            )
        names = [str(part)[:MAX_NAME] for part in location if part not in ("body", "query", "path", "header")]
        problems.append(errors.Problem(".".join(names) or "body", kind, str(item["msg"])))
    first = problems[0] if problems else errors.Problem("body", "invalid", "cannot be read")
    return errors.InvalidInput(f"invalid request: {first.field}: {first.message}", problems=problems)


def from_http(error: HTTPException, scope: Scope) -> Response:
    """The envelope for an exception of the framework: unknown route, wrong method, unreadable form."""
    message = error.detail if isinstance(error.detail, str) else "request refused"
    allowed = (error.headers or {}).get("Allow", "")
    if error.status_code == 404 and message == HTTPStatus.NOT_FOUND.phrase:
        message = f"no route answers {scope['method'][:MAX_NAME]} {scope['path'][:MAX_PATH]}"
    elif error.status_code == 405 and allowed:
        message = f"{scope['method'][:MAX_NAME]} is not possible at {scope['path'][:MAX_PATH]}: it takes {allowed}"
    body = {"success": False, "message": message, "code": FRAMEWORK_CODES.get(error.status_code, "refused")}
    headers = dict(error.headers) if error.headers else None
    return envelope.raw(envelope.dumps(body), status=error.status_code, headers=headers)


def refuse_in_the_envelope(web: FastAPI, prefix: str) -> None:
    """Let `web` refuse paths under `prefix` that no route answers in the envelope; all else stays as it was."""
    before = web.exception_handlers[HTTPException]

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if "endpoint" not in request.scope and f"{path}/".startswith(f"{prefix}/"):
            return from_http(error, request.scope)
        answer: Any = before(request, error)
        reply: Response = await answer if inspect.isawaitable(answer) else answer
        return reply

    web.add_exception_handler(HTTPException, refuse)
