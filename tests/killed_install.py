"""An installation in a process of its own that dies by SIGKILL at a given point."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid

from tests.tickets import TRUSTED

from metacore.bundle.signature import Signature
from metacore.db.database import Database
from metacore.installer.execute import Installer


def install_until(url: str, content: bytes, signature: Signature, organizations: list[uuid.UUID], place: int) -> None:
    """Install and be killed when the `place`-th point is reached; with fewer points it ends by itself."""
    asyncio.run(_install(url, content, signature, organizations, place))


async def _install(url: str, content: bytes, signature: Signature, organizations: list[uuid.UUID], place: int) -> None:
    reached = 0

    def point(_word: str) -> None:
        nonlocal reached
        reached += 1
        if reached == place:
            os.kill(os.getpid(), signal.SIGKILL)

    database = await Database.connect(url, pool_size=2)
    try:
        await Installer(database, point=point).install(content, signature, trusted=TRUSTED, organizations=organizations)
    finally:
        await database.close()
