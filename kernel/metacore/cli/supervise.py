"""Keeps one child process running: restarts it with a growing delay when it ends, and ends it politely when asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

FIRST_DELAY = 0.5
LAST_DELAY = 30.0
STEADY_SECONDS = 30.0
"""A child that ran this long has recovered: the next crash starts from the first delay again."""


class Supervisor:
    """One child process in a session of its own, so that Ctrl-C in the terminal reaches only us, who end it in order.

    Its standard input is a pipe that nobody writes to: when this process dies, however it dies, the child reads the end
    of it and can leave too. `on_crash` hears the exit code and the seconds until the next start. `stop_seconds` is how
    long it may take to end by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        inherited: Sequence[int] = (),
        stop_seconds: float = 30.0,
        on_crash: Callable[[int, float], None] = lambda _code, _delay: None,
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._inherited = tuple(inherited)
        self._stop_seconds = stop_seconds
        self._on_crash = on_crash
        self.process_id: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the child running until `stop` is set; then it has ended when this returns."""
        failures = 0
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            started = loop.time()
            code = await self._run_once(stop)
            if stop.is_set():
                return
            failures = 1 if loop.time() - started > STEADY_SECONDS else failures + 1
            delay = min(LAST_DELAY, FIRST_DELAY * 2 ** (failures - 1))
            self._on_crash(code, delay)
            await wait(stop, delay)

    def hurry(self) -> None:
        """End the child by force."""
        if self.process_id is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process_id, signal.SIGKILL)

    async def _run_once(self, stop: asyncio.Event) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            env=self._environment,
            pass_fds=self._inherited,
            start_new_session=True,
        )
        self.process_id = process.pid
        try:
            ended = asyncio.create_task(process.wait())
            asked = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if not ended.done():
                await self._end(process, ended)
            return ended.result()
        finally:
            # Workers that outlived their parent, and the child itself when we are cancelled.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self.process_id = None

    async def _end(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait({ended}, timeout=self._stop_seconds)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
