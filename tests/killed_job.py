"""A kernel process that dies by SIGKILL in the middle of a job."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.job_world import Handlers, job_world

from metacore.addons.invocation import Invocation, Result
from metacore.db.database import Database


def run_until_killed(owner_url: str, kernel_url: str, note: str, lease: float) -> None:
    """Work as a kernel; the first job writes its invocation id into the file `note`, and then the process is gone."""
    asyncio.run(_work(owner_url, kernel_url, Path(note), lease))


async def _work(owner_url: str, kernel_url: str, note: Path, lease: float) -> None:
    handlers = Handlers()

    async def die(invocation: Invocation) -> Result:
        note.write_text(str(invocation.id))
        os.kill(os.getpid(), signal.SIGKILL)
        return Result(True)

    handlers.on("work", die)
    owner = await Database.connect(owner_url, pool_size=2)
    async with job_world(owner, kernel_url) as world:
        await world.start(handlers, lease=lease)
        await asyncio.Event().wait()
