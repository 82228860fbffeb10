"""A server of the kernel's hub, or of the library `websockets`, that broadcasts when it is told to.

Clients connect to `/ws?token=reader`, the dead one with `token=dead`. Commands come as JSON from a client with
`channel=control`, which no broadcast reaches; each is answered with what it cost (`Done`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response

from metacore.api.ws import WebSocketEndpoint
from metacore.cli.listening import adopt
from metacore.identity import Principal
from metacore.ids import OrganizationId, UserId, new_uuid
from metacore.ws.connection import Connection
from metacore.ws.hub import Hub
from metacore.ws.messages import Message
from metacore.ws.protocol import UVICORN_OPTIONS

CONTROL = "control"
DEAD = UserId(new_uuid())
BIG = 16_384
MOST_BIG = 500

Broadcast = Callable[[dict[str, Any]], None]


async def run_command(command: dict[str, Any], send: Broadcast) -> dict[str, Any]:
    """Send `count` messages of about `size` bytes, `interval` seconds apart, each with the time when it was sent (ns of
    the machine's clock). Gives the processor time of this process in seconds."""
    cpu = time.process_time()
    padding = "x" * command["size"]
    for number in range(command["count"]):
        send({"at": time.monotonic_ns(), "number": number, "padding": padding})
        await asyncio.sleep(command["interval"])
    return {"cpu": time.process_time() - cpu}


def hub_application() -> ASGIApp:
    hub = Hub()

    async def authenticate(token: str) -> Principal:
        return Principal(
            user_id=DEAD if token == "dead" else UserId(new_uuid()),
            organization_id=OrganizationId(DEAD),
            email="reader@example.com",
            role="agent",
            session_id=None,
            expires_at=time.time() + 3_600,
            token_digest=hashlib.sha256(token.encode()).digest(),
        )

    def send(payload: dict[str, Any]) -> None:
        hub.send_conditional(lambda connection: connection.channel != CONTROL, Message("CUSTOM", payload))

    def stall(connection: Connection) -> None:
        """Fill the buffers on the way to the dead client, as somebody's who went out of reach."""
        sink = connection.sink
        assert isinstance(sink, WebSocketsSansIOProtocol)
        for _ in range(MOST_BIG):
            if sink.transport.get_write_buffer_size():
                return
            hub.send_to_user(DEAD, Message("CUSTOM", {"padding": "x" * BIG}))
        raise RuntimeError("the dead client takes everything")

    dead: list[Connection] = []

    async def commanded(connection: Connection, text: str) -> None:
        command = orjson.loads(text)
        if connection.channel != CONTROL:
            dead.append(connection)
            return
        if command.get("stall"):
            stall(dead[0])
            connection.sink.push(Message("DONE", {}))
            return
        connection.sink.push(Message("DONE", await run_command(command, send)))

    hub.on_message(commanded)
    endpoint = WebSocketEndpoint(hub, authenticate)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await endpoint(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return application


async def serve_library(listener: socket.socket) -> None:
    clients: set[ServerConnection] = set()

    def send(payload: dict[str, Any]) -> None:
        broadcast(clients, orjson.dumps({"type": "CUSTOM", "payload": payload}).decode())

    async def handler(client: ServerConnection) -> None:
        if client.request is not None and CONTROL in client.request.path:
            async for text in client:
                done = await run_command(orjson.loads(text), send)
                await client.send(orjson.dumps({"payload": done}).decode())
            return
        clients.add(client)
        try:
            await client.wait_closed()
        finally:
            clients.discard(client)

    def ready(client: ServerConnection, request: Request) -> Response | None:
        return client.respond(HTTPStatus.OK, "") if request.path == "/ready" else None

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(handler, sock=listener, process_request=ready, compression=None):
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("hub", "library"))
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    listener = adopt(arguments.fd)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if arguments.kind == "hub":
        config = uvicorn.Config(hub_application(), loop="uvloop", lifespan="off", log_config=None, **UVICORN_OPTIONS)
        uvicorn.Server(config).run([listener])
        return
    import uvloop

    uvloop.run(serve_library(listener))


def _stop_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
