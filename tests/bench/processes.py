"""Servers as processes of their own: a port before they start, ready before they are used, gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from metacore.cli.listening import listen

HOST = "127.0.0.1"
START_SECONDS = 60
STOP_SECONDS = 30
POLL_SECONDS = 0.05
LOG_TAIL = 2_000


@dataclass(frozen=True, slots=True)
class Child:
    """A running server."""

    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def resident_bytes(self) -> int:
        """Memory that is in RAM now (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, ready: str
) -> AsyncIterator[Child]:
    """Start `command` with `--fd N`, a listening socket; it is ready when GET `ready` gives 200.

    Its standard input is a pipe that ends with this process, and it must end then, too. It writes to `<name>.log`.

    Raises:
        RuntimeError: it did not get ready, or ended by itself; the message ends with what it wrote last.
    """
    log_path = folder / f"{name}.log"
    with listen(HOST, 0) as listener, log_path.open("wb") as log:
        port = int(listener.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(*command, "--fd", str(listener.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(environment),
            pass_fds=[listener.fileno()],
            # Ctrl-C in the terminal reaches only us, who end it in order.
            start_new_session=True,
        )
        try:
            child = Child(name, port, process.pid)
            listener.close()
            await _until_ready(child, ready, process, log_path)
            yield child
            if process.returncode is not None:
                raise RuntimeError(f"{name} ended by itself with {process.returncode}: {_tail(log_path)}")
        finally:
            await _end(process)


async def _until_ready(child: Child, path: str, process: asyncio.subprocess.Process, log_path: Path) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS), httpx2.AsyncClient(base_url=child.url) as client:
            while process.returncode is None:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(path)).status_code == 200:
                        return
                await asyncio.sleep(POLL_SECONDS)
    raise RuntimeError(f"{child.name} did not get ready: {_tail(log_path)}")


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise


def _tail(log_path: Path) -> str:
    return log_path.read_text(errors="replace")[-LOG_TAIL:].strip()
