"""Everything of this room as one thing that starts and stops: the enforcer, its record, the mode that it follows."""

from __future__ import annotations

from collections.abc import Callable

from metacore.capabilities.access import Mode
from metacore.capabilities.enforcer import Enforcer
from metacore.capabilities.mode_follower import ModeFollower
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.writer import ViolationWriter
from metacore.db.database import Database
from metacore.metrics import Metrics
from metacore.registry import Registry


class Enforcement:
    """`enforcer` decides and `recorder` hears from the first moment on; between `start` and `stop` violations are
    written down. `modes.follow` has to be called now and then: heartbeats do."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        enforce: bool = False,
        fixed: bool = False,
        file: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        configured = Mode.ENFORCE if enforce else Mode.SHADOW
        self.recorder = ViolationRecorder(metrics)
        self.enforcer = Enforcer(registry, self.recorder, mode=configured)
        self.writer = ViolationWriter(database, self.recorder)
        self.modes = ModeFollower(database, configured=configured, apply=self._apply, fixed=fixed, file=file)
        self._callbacks: list[Callable[[Mode], None]] = []

    def on_mode(self, callback: Callable[[Mode], None]) -> None:
        """Call `callback` with the global mode now, and whenever it was read again."""
        self._callbacks.append(callback)
        callback(self.enforcer.mode)

    async def start(self) -> None:
        await self.modes.follow()
        await self.writer.start()

    async def stop(self) -> None:
        await self.writer.stop()

    def _apply(self, mode: Mode) -> None:
        self.enforcer.mode = mode
        for callback in self._callbacks:
            callback(mode)
