"""The route class of every kernel router: errors become the envelope, whichever application the router is in."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from metacore.api.errors import failure, from_http, from_validation
from metacore.errors import MetacoreError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KernelRoute(APIRoute):
    """An exception handler of the application would belong to the host; this one belongs to the route."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except MetacoreError as error:
                return failure(error)
            except RequestValidationError as error:
                return failure(from_validation(error))
            except HTTPException as error:
                return from_http(error)

        return guarded
