"""Whether the process lives: by the age of its loops, since an idle cluster delivers nothing to judge it by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from metacore.errors import Misconfigured
from metacore_operator.metrics import CONTENT_TYPE, OperatorMetrics


class Beats:
    """When each loop last came round. A loop is known from `expect` on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, tuple[float, float]] = {}

    def expect(self, loop: str, within: float) -> None:
        """From now on, `loop` must beat at least every `within` seconds."""
        self._loops[loop] = (within, self._clock())

    def beat(self, loop: str) -> None:
        within, _ = self._loops[loop]
        self._loops[loop] = (within, self._clock())

    def late(self) -> list[str]:
        """The loops that are late, each with the age of its last beat."""
        now = self._clock()
        return [
            f"{loop}: {now - last:.0f} s ago" for loop, (within, last) in self._loops.items() if now - last > within
        ]


@asynccontextmanager
async def serving(beats: Beats, metrics: OperatorMetrics, host: str, port: int) -> AsyncIterator[int]:
    """Answer GET /metrics, and GET /healthz with 200, or 503 and the loops that are late, while the block runs, on the
    port that it gives.

    Raises:
        Misconfigured: the address is taken.
    """

    async def healthz(_request: web.Request) -> web.Response:
        late = beats.late()
        text = "late: " + ", ".join(late) if late else "ok"
        return web.Response(text=text + "\n", status=503 if late else 200)

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/metrics", scrape)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Misconfigured(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield int(runner.addresses[0][1])
        await asyncio.sleep(0)
    finally:
        await runner.cleanup()
