"""Whether the process lives: by the age of its loops, since an idle cluster delivers nothing to judge it by, and of
the work that is under way. And whether it has what it cannot work without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from metacore.errors import Misconfigured
from metacore_operator.metrics import CONTENT_TYPE, OperatorMetrics


class Beats:
    """When each loop last came round. A loop is known from `expect` on, a piece of work while it is `busy`. And what is
    lacking, with why, and what goes wrong beside the rest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[object, tuple[str, float, float]] = {}
        self._lacking: dict[str, str] = {}
        self._remarks: dict[str, str] = {}

    def expect(self, loop: str, within: float) -> None:
        """From now on, `loop` must beat at least every `within` seconds."""
        self._known[loop] = (loop, within, self._clock())

    def beat(self, loop: str) -> None:
        self._beat(loop)

    @contextmanager
    def busy(self, work: str, within: float) -> Iterator[Callable[[], None]]:
        """While the block runs, it must end, or call what it gets, at least every `within` seconds."""
        key = object()
        self._known[key] = (work, within, self._clock())
        try:
            yield lambda: self._beat(key)
        finally:
            del self._known[key]

    def lack(self, what: str, why: str) -> None:
        """From now on until it is `found` the process is not ready; it lives, since a new start would not help."""
        self._lacking[what] = why

    def found(self, what: str) -> None:
        self._lacking.pop(what, None)

    def lacking(self) -> list[str]:
        return list(self._lacking.values())

    def remark(self, what: str, words: str) -> None:
        """From now on `words` are shown, '' for no more. The process stays ready: everything else goes on."""
        if words:
            self._remarks[what] = words
        else:
            self._remarks.pop(what, None)

    def remarks(self) -> list[str]:
        return list(self._remarks.values())

    def late(self) -> list[str]:
        """The loops and the work that are late, each with the age of its last beat."""
        now = self._clock()
        return [f"{name}: {now - last:.0f} s ago" for name, within, last in self._known.values() if now - last > within]

    def _beat(self, key: object) -> None:
        name, within, _ = self._known[key]
        self._known[key] = (name, within, self._clock())


@asynccontextmanager
async def serving(beats: Beats, metrics: OperatorMetrics, host: str, port: int) -> AsyncIterator[int]:
    """Answer GET /metrics, GET /healthz with 200, or 503 and the loops that are late, and GET /readyz also with 503 and
    what is lacking, and in any case the remarks, while the block runs, on the port that it gives.

    Raises:
        Misconfigured: the address is taken.
    """

    async def healthz(_request: web.Request) -> web.Response:
        return _answer(beats.late(), [])

    async def readyz(_request: web.Request) -> web.Response:
        return _answer(beats.late(), beats.lacking(), beats.remarks())

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
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


def _answer(late: list[str], lacking: list[str], remarks: Sequence[str] = ()) -> web.Response:
    problems = ["late: " + ", ".join(late)] * bool(late) + lacking
    return web.Response(text="\n".join([*(problems or ["ok"]), *remarks]) + "\n", status=503 if problems else 200)
