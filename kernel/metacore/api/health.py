"""Is the process up, may it get traffic, what does it count: `/healthz`, `/readyz`, `/metrics`, at the root.

They need no token, so they say which check failed and never why in the words of a driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from metacore import logs
from metacore.api import envelope
from metacore.api.errors import status_of
from metacore.api.route import KernelRoute
from metacore.errors import MetacoreError, NotWired, Unavailable
from metacore.metrics import CONTENT_TYPE, Metrics

log = logs.get_logger("metacore.health")

CHECK_SECONDS: Final = 3.0
"""A check that takes longer has failed; kubelets give up after a few seconds themselves."""

Check = Callable[[], Awaitable[None]]
"""Returns when all is well; raises `MetacoreError` with a message that anybody may read, or anything else."""


class Readiness:
    """Named checks, run side by side. Callers that ask while a round is under way share its answer."""

    def __init__(self, checks: Mapping[str, Check], *, seconds: float = CHECK_SECONDS) -> None:
        self._checks = dict(checks)
        self._seconds = seconds
        self._round: asyncio.Task[dict[str, str]] | None = None

    async def results(self) -> dict[str, str]:
        """`ok` or the reason, by the name of the check."""
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run())
        return await asyncio.shield(self._round)

    async def _run(self) -> dict[str, str]:
        answers = await asyncio.gather(*(self._one(name, check) for name, check in self._checks.items()))
        return dict(zip(self._checks, answers, strict=True))

    async def _one(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(self._seconds):
                await check()
        except MetacoreError as error:
            return error.message
        except TimeoutError:
            return f"no answer within {self._seconds:g} s"
        except Exception:
            log.exception("health.check_failed", check=name)
            return "failed"
        return "ok"


def build_health_router(checks: Mapping[str, Check], metrics: Metrics | None) -> APIRouter:
    """The three routes. Without `metrics` the route `/metrics` answers 501."""
    router = APIRouter(route_class=KernelRoute, tags=["health"])
    readiness = Readiness(checks)

    @router.get("/healthz", summary="Whether the process is up")
    async def healthz() -> Response:
        return envelope.ok({"status": "ok"})

    @router.get("/readyz", summary="Whether the process may get traffic")
    async def readyz() -> Response:
        results = await readiness.results()
        failing = [name for name, result in results.items() if result != "ok"]
        if not failing:
            return envelope.ok({"status": "ready", "checks": results})
        error = Unavailable(f"not ready: {', '.join(failing)}")
        body = {"success": False, "message": error.message, "code": error.code, "checks": results}
        return envelope.raw(envelope.dumps(body), status=status_of(error))

    @router.get("/metrics", summary="Metrics in the text format of Prometheus")
    async def scrape() -> Response:
        if metrics is None:
            raise NotWired("metrics are switched off")
        return Response(await asyncio.to_thread(metrics.render), headers={"content-type": CONTENT_TYPE})

    return router
