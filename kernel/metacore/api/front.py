"""A FastAPI application of the kernel's own, with middleware in front of everything that FastAPI does for a request."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send


class FrontedFastAPI(FastAPI):
    """For whoever answers most requests before FastAPI: its telemetry, body limit and error middleware cost more per
    request than reading a row does (docs/performance.md), and the kernel has its own of each."""

    _front: ASGIApp | None = None

    def put_in_front(self, middleware: Sequence[Middleware]) -> None:
        """From the outermost to the innermost. They see requests and WebSockets, not the lifespan; what they raise
        reaches the server."""
        front: ASGIApp = super().__call__
        for each in reversed(middleware):
            front = each.cls(front, *each.args, **each.kwargs)
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._front is None or scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await self._front(scope, receive, send)
