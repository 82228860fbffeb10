"""The fast lane: rows are answered in front of FastAPI, by the same endpoint and with the same bytes.

FastAPI's route matching, dependency solving and request objects cost more than the rest of a small request
(docs/performance.md, HTTP floor). The lane takes only what it can finish: a bearer token, a collection or a row of one
model. Everything else passes through untouched.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from metacore.api.deps import AUTHENTICATION_NEEDED, with_locale
from metacore.api.middleware import ROUTE_KEY
from metacore.api.records import (
    COLLECTION_METHODS,
    ROW_METHODS,
    UNCONDITIONAL,
    Conditions,
    RecordsEndpoint,
    render_failure,
)
from metacore.auth.service import AuthService
from metacore.errors import MetacoreError, PayloadTooLarge, Unauthenticated

UUID_LENGTH = 36
AUTHORIZATION, ACCEPT_LANGUAGE = b"authorization", b"accept-language"
IF_MATCH, IF_NONE_MATCH = b"if-match", b"if-none-match"
LISTS = frozenset({IF_MATCH, IF_NONE_MATCH})
"""Headers that may come in several lines, which are one list."""
HEADERS = LISTS | {AUTHORIZATION, ACCEPT_LANGUAGE}


class Lane:
    """ASGI middleware. `prefix` is where the kernel's routes hang, such as `/api`."""

    def __init__(self, app: ASGIApp, *, prefix: str, endpoint: RecordsEndpoint, auth: AuthService) -> None:
        self._app = app
        self._endpoint = endpoint
        self._auth = auth
        self._prefix = prefix
        self._roots = (f"{prefix}/dynamic/", f"{prefix}/data/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (target := self._target(scope)) is None:
            await self._app(scope, receive, send)
            return
        model, row = target
        try:
            token, conditions, languages = _headers(scope)
            principal = self._auth.authenticate_cached(token) or await self._auth.authenticate(token)
            body = b""
            if languages and scope["method"] != "GET":
                # Hooks may speak to the caller; what is read does not depend on the language.
                principal = with_locale(principal, languages)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                received = await _read_body(receive, self._endpoint.max_body_bytes)
                if received is None:
                    return
                body = received
            reply = await self._endpoint.respond(
                principal, scope["method"], model, row, scope["query_string"], body, conditions
            )
        except MetacoreError as error:
            reply = render_failure(error)
        headers = []
        if reply.body:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply.body))]
        if reply.tag:
            headers.append((b"etag", b'"%b"' % reply.tag.encode()))
        if reply.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _target(self, scope: Scope) -> tuple[str, str | None] | None:
        """The model and row that the path names, or None where FastAPI has to answer."""
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        if root_path and path.startswith(root_path):
            path = path[len(root_path) :]
        root = next((root for root in self._roots if path.startswith(root)), None)
        if root is None:
            return None
        parts = path[len(root) :].split("/")
        if len(parts) > 1 and parts[1] == "me" and root is self._roots[1]:
            del parts[1]
        if not parts[0]:
            return None
        template = root + "{model}"
        if len(parts) == 1 and scope["method"] in COLLECTION_METHODS:
            scope[ROUTE_KEY] = template
            return parts[0], None
        if len(parts) == 2 and len(parts[1]) == UUID_LENGTH and scope["method"] in ROW_METHODS:
            scope[ROUTE_KEY] = template + "/{id}"
            return parts[0], parts[1]
        return None


def _headers(scope: Scope) -> tuple[str, Conditions, str]:
    """The token, the conditions and the accepted languages of a request.

    Raises:
        Unauthenticated: no token.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in HEADERS:
            if name in LISTS and name in found:
                value = found[name] + b"," + value
            elif name in found:
                continue  # Of those that come twice the first counts, as Starlette takes them.
            found[name] = value
    scheme, _, token = found.get(AUTHORIZATION, b"").partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise Unauthenticated(AUTHENTICATION_NEEDED)
    conditions = UNCONDITIONAL
    if IF_MATCH in found or IF_NONE_MATCH in found:
        conditions = Conditions(_text(found.get(IF_MATCH)), _text(found.get(IF_NONE_MATCH)))
    return token.decode("latin-1"), conditions, found.get(ACCEPT_LANGUAGE, b"").decode("latin-1")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when the client went away.

    Raises:
        PayloadTooLarge: as soon as more than `limit` bytes have come.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        if not message.get("more_body", False):
            return chunk if not chunks else b"".join([*chunks, chunk])
        chunks.append(chunk)
