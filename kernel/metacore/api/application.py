"""The FastAPI application that is the kernel's own, without what the kernel has a middleware of its own for."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

HANDLED_BY_THE_KERNEL = (500, Exception)


class KernelApplication(FastAPI):
    """Goes straight to the middleware, and from the last of them to the router.

    FastAPI's telemetry, body limit and error middleware cost a request more than reading a row does
    (docs/performance.md), and `RequestMiddleware` has its own limits, log and envelope for what fails: it has to be
    among the middleware, and handlers of 500 and Exception are not asked. What `add_middleware` adds stands in front
    of it, as in every FastAPI application.
    """

    def build_middleware_stack(self) -> ASGIApp:
        handlers = {kind: call for kind, call in self.exception_handlers.items() if kind not in HANDLED_BY_THE_KERNEL}
        app: ASGIApp = self.router
        for each in reversed(
            [
                *self.user_middleware,
                Middleware(ExceptionMiddleware, handlers=handlers, debug=self.debug),
                Middleware(AsyncExitStackMiddleware),
            ]
        ):
            app = each.cls(app, *each.args, **each.kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)
