"""What happens to every request: its id, its limits, its log line, its metrics, and no internals in a failure.

One pure ASGI class, outermost among ours, so that the fast lane and FastAPI are covered alike. It sits on the hot path:
nothing here awaits, parses or copies more than it must.
"""

from __future__ import annotations

import itertools
import re
import secrets
from time import perf_counter
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metacore import logs
from metacore.api.errors import INTERNAL_ERROR, failure, status_of
from metacore.db.faults import fault_of
from metacore.errors import MetacoreError, PayloadTooLarge
from metacore.metrics import Metrics

log = logs.get_logger("metacore.http")

ROUTE_KEY: Final = "metacore.route"
"""Where whoever answers a request without FastAPI leaves the route's template in the scope."""

UPLOAD_PATHS: Final = re.compile(r"/import(?:/validate)?/?$|/metacore/installations/[^/]+/?$")
"""Paths whose bodies are files; they have a limit of their own."""

QUIET_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: counted, but not logged."""

ROOT_PATHS: Final = (*QUIET_PATHS, "/docs", "/openapi.json")
"""The kernel's own paths outside of its prefix, and all below them."""

METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
CLIENT_CLOSED: Final = 499
"""What the log says of a request whose client went away before the reply began (nginx's number; never sent)."""

UNMATCHED: Final = "unmatched"
"""The route label of requests that no route answers: their paths are anybody's choice, so they are no label."""

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_NOSNIFF = (b"x-content-type-options", b"nosniff")


class RequestMiddleware:
    """ASGI middleware. Install it with `app.add_middleware` so that it sees exceptions before Starlette does.

    With a `prefix` only requests under it (and `ROOT_PATHS`) are touched, so a host's own routes keep the host's limits
    and error handling. `max_body_bytes` bounds a body by its Content-Length and again while it streams;
    `max_upload_bytes` holds for `UPLOAD_PATHS`. More is 413.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics | None = None,
        access_log: logs.AccessLog | None = None,
        prefix: str = "",
        max_body_bytes: int = 1_048_576,
        max_upload_bytes: int = 67_108_864,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.access_log = access_log
        self._own = tuple(f"{path}/" for path in (prefix, *ROOT_PATHS)) if prefix else ("",)
        self.max_body_bytes = max_body_bytes
        self.max_upload_bytes = max_upload_bytes
        self._id_prefix = secrets.token_hex(8)
        self._ids = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._covers(scope):
            await self.app(scope, receive, send)
        else:
            await self.around(self.app, scope, receive, send)

    async def around(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run `app` for one request as this middleware runs its own, for routes that none stands in front of."""
        if scope["type"] == "http":
            await self._http(app, scope, receive, send)
        else:
            await self._websocket(app, scope, receive, send)

    def _covers(self, scope: Scope) -> bool:
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        if root_path and path.startswith(root_path):
            # In an application that is mounted in another one, the path begins with where that is.
            path = path[len(root_path) :]
        return f"{path}/".startswith(self._own)

    async def _http(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        identifier, content_length = self._read_headers(scope)
        exchange = _Exchange(self, scope, receive, send, identifier)
        token = logs.request_id.set(identifier.decode("ascii"))
        try:
            if content_length is None:
                await app(scope, exchange.receive, exchange.send)
            elif content_length <= self.max_body_bytes or content_length <= self.body_limit(scope["path"]):
                await app(scope, receive, exchange.send)
            else:
                exchange.too_large = True
            if exchange.too_large:
                await exchange.answer(self.too_large(scope["path"]))
        except Exception as error:
            await self._failed(exchange, scope, error)
        finally:
            exchange.record()
            logs.request_id.reset(token)

    async def _failed(self, exchange: _Exchange, scope: Scope, error: Exception) -> None:
        if exchange.too_large and not exchange.status:
            # Something on the way may have wrapped our own refusal; the client gets it as it was.
            await exchange.answer(self.too_large(scope["path"]))
        elif isinstance(error, MetacoreError) and not exchange.status and status_of(error) != 500:
            await exchange.answer(error)
        elif isinstance(error, ClientDisconnect):
            log.debug("request.abandoned", method=scope["method"], route=route_template(scope))
        elif (fault := fault_of(error)) is not None and not exchange.status:
            # Routes that ask seldom let it through: while the database is away, it is every one of them.
            log.warning("request.database_lost", method=scope["method"], route=route_template(scope), error=fault.code)
            await exchange.answer(fault)
        else:
            log.error("request.failed", method=scope["method"], route=route_template(scope), exc_info=error)
            if exchange.status:
                # The reply is under way; all that is left is that the server cuts it off.
                raise error
            await exchange.answer(MetacoreError(INTERNAL_ERROR))

    async def _websocket(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        identifier, _ = self._read_headers(scope)

        async def tagged(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identifier)]
            await send(message)

        token = logs.request_id.set(identifier.decode("ascii"))
        try:
            await app(scope, receive, tagged)
        finally:
            logs.request_id.reset(token)

    def body_limit(self, path: str) -> int:
        return self.max_upload_bytes if UPLOAD_PATHS.search(path) else self.max_body_bytes

    def too_large(self, path: str) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is larger than {self.body_limit(path)} bytes")

    def _read_headers(self, scope: Scope) -> tuple[bytes, int | None]:
        """The request's id, the caller's or a new one, and how long its body is, if that is known.

        A body in chunks ends where they end, whatever Content-Length says (RFC 9112, 6.3), and not every server
        refuses a request that has both.
        """
        identifier = b""
        content_length: int | None = None
        chunked = False
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                if _SANE_ID.fullmatch(value):
                    identifier = value
            elif name == b"content-length" and value.isdigit():
                content_length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        if chunked:
            content_length = None
        return identifier or f"{self._id_prefix}-{next(self._ids):x}".encode(), content_length


class _Exchange:
    """One request and its reply: the `receive` and `send` that the application gets."""

    __slots__ = (
        "_identifier",
        "_middleware",
        "_receive",
        "_received",
        "_recorded",
        "_scope",
        "_send",
        "_started_at",
        "status",
        "too_large",
    )

    def __init__(
        self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send, identifier: bytes
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._identifier = identifier
        self._received = 0
        self._recorded = False
        self._started_at = perf_counter()
        self.status = 0
        self.too_large = False

    async def receive(self) -> Message:
        """The body of unknown length, counted.

        Raises:
            PayloadTooLarge: as soon as it is more than its limit; whatever the application then answers, 413 is sent.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            middleware, path = self._middleware, self._scope["path"]
            if self._received > middleware.max_body_bytes and self._received > middleware.body_limit(path):
                self.too_large = True
                raise middleware.too_large(path)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self.too_large:
                # The application swallowed the refusal and makes up a reply of its own; ours follows when it is done.
                return
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._identifier)]
            if _NOSNIFF not in headers:
                headers.append(_NOSNIFF)
            message["headers"] = headers
        elif self.too_large and not self.status:
            return
        await self._send(message)
        if kind == "http.response.body" and not message.get("more_body", False):
            self.record()

    async def answer(self, error: MetacoreError) -> None:
        """Send the envelope of `error`, unless a reply has begun already."""
        if not self.status:
            self.too_large = False
            await failure(error)(self._scope, self._receive, self.send)

    def record(self) -> None:
        """Write the log line and the metric, once."""
        if self._recorded:
            return
        self._recorded = True
        seconds = perf_counter() - self._started_at
        scope, middleware = self._scope, self._middleware
        status = self.status or CLIENT_CLOSED
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = route_template(scope)
        if middleware.metrics is not None:
            middleware.metrics.observe_http(route or UNMATCHED, method, status, seconds)
        if middleware.access_log is not None and scope["path"] not in QUIET_PATHS:
            middleware.access_log.record(
                method, route, scope["path"], status, seconds * 1000, self._identifier.decode("ascii")
            )


def route_template(scope: Scope) -> str:
    """The template of the route that matched, prefixes of routers and mounts included, or '' when none did."""
    named: str | None = scope.get(ROUTE_KEY)
    if named is not None:
        return named
    # FastAPI keeps the path with the prefixes of included routers here; the route itself only knows its own part.
    context = scope.get("fastapi", {}).get("effective_route_context")
    matched: Any = (getattr(context, "starlette_route", None) or context) if context is not None else scope.get("route")
    path: str = getattr(matched, "path_format", "")
    mounted: str = scope.get("root_path", "")[len(scope.get("app_root_path", "")) :] if "app_root_path" in scope else ""
    return mounted + path if path else ""
