"""The route class of every kernel router: errors become the envelope, whichever application the router is in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from metacore.api.errors import failure, from_http, from_validation
from metacore.errors import InvalidInput, MetacoreError

Around = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KernelRoute(APIRoute):
    """An exception handler of the application would belong to the host; this one belongs to the route.

    `of_path` are the methods of all routes with this path: `Allow` names each of them (RFC 9110, 10.2.1). `around` is
    the request middleware where it does not stand in front of the application, since a host mounted a router only."""

    of_path: frozenset[str] = frozenset()
    around: Around | None = None

    def finish(self, response: Response) -> Response:
        """Every reply of the route goes through here; a room's own route class may add headers."""
        return response

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                if request.scope["query_string"]:
                    refuse_nul(request.scope["query_string"])
                return self.finish(await handle(request))
            except MetacoreError as error:
                return self.finish(failure(error))
            except RequestValidationError as error:
                return self.finish(failure(from_validation(error)))
            except HTTPException as error:
                return self.finish(from_http(error, request.scope))

        return guarded

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.around is None:
            await self._handle(scope, receive, send)
        else:
            await self.around(self._handle, scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().handle(scope, receive, send)
        except HTTPException as error:
            # What the handler raises never gets here: this is the method that the route does not have.
            error.headers = {"Allow": ", ".join(sorted(self.of_path or self.methods or ()))}
            await self.finish(from_http(error, scope))(scope, receive, send)


def routes_within(around: Around | None) -> type[KernelRoute]:
    """The class for routes that a host adds to the router that it got."""
    return KernelRoute if around is None else type("HostRoute", (KernelRoute,), {"around": staticmethod(around)})


def prepare(router: APIRouter, around: Around | None) -> None:
    """Tell every route of the kernel in `router` which methods the others of its path take, and what stands around."""
    methods: dict[str, set[str]] = {}
    routes = [route for route in router.routes if isinstance(route, KernelRoute)]
    for route in routes:
        methods.setdefault(route.path, set()).update(route.methods or ())
    for route in routes:
        route.of_path = frozenset(methods[route.path])
        route.around = around


def refuse_nul(query: bytes) -> None:
    """No database takes the character U+0000 in a text, and nothing that is asked for has it.

    Raises:
        InvalidInput: the query string holds it.
    """
    if b"%00" in query:
        raise InvalidInput("the query string must not hold the character U+0000", code="invalid_query")
