"""The WebSocket upgrade: `GET /ws?token=…`, refused with 401 before it happens when the token does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from metacore.api.errors import failure
from metacore.db.faults import fault_of
from metacore.errors import InvalidInput, MetacoreError, Unauthenticated
from metacore.identity import Principal
from metacore.ws.connection import CloseCode, Connection, Sink
from metacore.ws.hub import Hub
from metacore.ws.protocol import EXTENSION, MAX_INBOUND_BYTES
from metacore.ws.queued import QueuedSink

MAX_CHANNEL: Final = 128
MAX_FIELDS: Final = 20

Authenticate = Callable[[str], Awaitable[Principal]]


def build_ws_router(hub: Hub, authenticate: Authenticate) -> APIRouter:
    """The route `/ws`. `authenticate` turns a token into its caller or raises `Unauthenticated`."""
    router = APIRouter()
    # Starlette takes an ASGI application here too; its annotation only knows functions.
    router.add_websocket_route("/ws", WebSocketEndpoint(hub, authenticate))  # type: ignore[arg-type]
    return router


class WebSocketEndpoint:
    """Plain ASGI: a connection costs one waiting coroutine and no request objects."""

    def __init__(self, hub: Hub, authenticate: Authenticate) -> None:
        self._hub = hub
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        changes = self._hub.changes
        try:
            token, channel = _parameters(scope["query_string"])
            principal = await self._authenticate(token)
        except Exception as error:
            refusal = error if isinstance(error, MetacoreError) else fault_of(error)
            if refusal is None:
                raise
            await _refuse(refusal, scope, receive, send)
            return
        await send({"type": "websocket.accept"})
        verify = partial(self._authenticate, token)
        direct: Sink | None = scope.get("extensions", {}).get(EXTENSION)
        if direct is not None:
            connection = self._hub.connect(principal, direct, channel=channel, verify=verify)
            await self._serve(connection, changes, receive)
            return
        queued = QueuedSink(send)
        connection = self._hub.connect(principal, queued, channel=channel, verify=verify)
        serving = asyncio.create_task(self._serve(connection, changes, receive))
        closed = asyncio.create_task(queued.closed.wait())
        try:
            await asyncio.wait((serving, closed), return_when=asyncio.FIRST_COMPLETED)
            if queued.closing:
                await closed
        finally:
            serving.cancel()
            closed.cancel()
            await asyncio.gather(serving, closed, return_exceptions=True)
            await queued.stop()

    async def _serve(self, connection: Connection, changes: int, receive: Receive) -> None:
        """Read until the client or the hub closes."""
        try:
            if self._hub.changes != changes:
                # Rights changed between the check of the token and now, when the hub did not know this client yet.
                await self._hub.recheck(connection.principal.user_id)
            while (message := await receive())["type"] != "websocket.disconnect":
                text: str | None = message.get("text")
                if text is None:
                    continue
                if len(text) > MAX_INBOUND_BYTES:
                    connection.sink.end(CloseCode.TOO_BIG, "message too big")
                    return
                await self._hub.received(connection, text)
        finally:
            self._hub.disconnect(connection)


def _parameters(query: bytes) -> tuple[str, str]:
    """Token and channel.

    Raises:
        InvalidInput: a query string that cannot be read, or a channel of more than 128 characters.
        Unauthenticated: no token.
    """
    try:
        fields = parse_qs(query.decode("ascii"), max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidInput("the query string cannot be read", code="invalid_query") from error
    channel = fields.get("channel", [""])[0]
    if len(channel) > MAX_CHANNEL:
        raise InvalidInput(f"channel is longer than {MAX_CHANNEL} characters", code="invalid_channel")
    if "token" not in fields:
        raise Unauthenticated("authentication needed: connect with ?token=<token>")
    return fields["token"][0], channel


async def _refuse(error: MetacoreError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the upgrade with the envelope; servers that cannot (ASGI's denial response) send a bare 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await failure(error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": CloseCode.UNAUTHENTICATED, "reason": error.code})
