"""A reconcile over a folder in a process of its own that dies by SIGKILL at a given point."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore_operator.conditions import Event
from metacore_operator.folder.runner import FolderRunner
from metacore_operator.folder.secrets import FolderSecrets
from metacore_operator.folder.store import Record, Store
from metacore_operator.housekeeping import Housekeeping
from metacore_operator.resources.addon import ROTATE_SECRETS, Addon
from metacore_operator.resources.spec import SourceKind
from metacore_operator.resources.status import Phase
from metacore_operator.settings import ReconcileSettings
from metacore_operator.sources.folder import FolderSource
from metacore_operator.steps.context import KeptSecrets, Ports
from metacore_operator.steps.state import DatabaseState
from metacore_operator.trust import Trust


class PointedStore(Store):
    """Tells before and after it writes a status."""

    def __init__(self, folder: Path, point: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._point = point

    def save(self, record: Record) -> None:
        self._point("before status")
        super().save(record)
        self._point("after status")


class PointedSecrets(FolderSecrets):
    """Tells before and after it keeps secrets."""

    def __init__(self, folder: Path, point: Callable[[str], None]) -> None:
        super().__init__(folder)
        self._point = point

    async def write(self, addon: Addon, kept: KeptSecrets) -> None:
        self._point("before secrets")
        await super().write(addon, kept)
        self._point("after secrets")


def reconcile_until(url: str, root: Path, data: Path, keys: Path, version: str, place: int) -> None:
    """Reconcile until `version` is Ready, and be killed when the `place`-th point is reached.

    The points that were passed stand in the file `points`.
    """
    asyncio.run(_reconcile(url, root, data, keys, version, place))


async def _reconcile(url: str, root: Path, data: Path, keys: Path, version: str, place: int) -> None:
    passed: list[str] = []
    stop = asyncio.Event()

    def point(word: str) -> None:
        passed.append(word)
        if len(passed) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def happened(_addon: Addon, event: Event) -> None:
        point(f"event {event.reason.value}")

    owner = await Database.connect(url, pool_size=4)
    try:
        installer = Installer(owner, point=point)
        trust = Trust([keys])
        ports = Ports(
            sources={SourceKind.PATH: FolderSource(root)},
            trusted=trust.current,
            installer=installer,
            state=DatabaseState(owner),
            secrets=PointedSecrets(data, point),
        )
        runner = FolderRunner(
            root,
            PointedStore(data, point),
            ports,
            trust,
            companions=[Housekeeping(owner, installer)],
            settings=ReconcileSettings(pulse=0.05, settle=0.05),
            on_event=happened,
            on_progress=lambda _addon, text: point(f"progress {text}"),
        )
        running = asyncio.create_task(runner.run(stop))
        while not _is_done(runner.status("default/tickets"), version):
            # The status may have been written by a process that died before it told.
            await asyncio.wait({running}, timeout=0.05)
            assert not running.done()
        stop.set()
        await running
    finally:
        await owner.close()
    (data / "points").write_text("\n".join(passed))


def _is_done(addon: Addon | None, version: str) -> bool:
    if addon is None:
        return False
    rotated = addon.status.last_handled_rotate_secrets == addon.asked(ROTATE_SECRETS)
    return addon.status.phase is Phase.READY and addon.status.version == version and rotated
