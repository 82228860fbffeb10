"""Hold what is installed against the trust of today: an addon whose signature no longer counts is fenced at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from metacore.bundle.signature import verify
from metacore.errors import BundleRefused, SignatureRefused, Unavailable
from metacore.logs import get_logger
from metacore_operator.steps.context import Ports

log = get_logger(__name__)

LOOK_SECONDS = 10.0
"""For one addon. A migration under way holds its lock for longer; then the others come first."""


@dataclass(frozen=True, slots=True)
class Fencing:
    """A change of one addon; `reason` is '' when its fence was lifted."""

    addon_key: str
    reason: str


class Reverification:
    """Verifies every installed bundle again and fences or frees what differs. Installed data is never touched.

    Keys stay due until they were looked at, whatever happens to one of them or to the whole meanwhile.
    """

    def __init__(self, ports: Ports, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._ports = ports
        self._look_seconds = look_seconds
        self._wanted = False
        self._due: dict[str, None] = {}

    @property
    def due(self) -> bool:
        return self._wanted or bool(self._due)

    def want(self) -> None:
        """Trust has changed: all of it is due."""
        self._wanted = True

    async def run(self, tell: Callable[[Fencing], None]) -> None:
        """Look at what is due; `tell` hears of each change when it is made.

        Raises:
            Unavailable: some could not be looked at, and are still due; the message names them.
        """
        if self._wanted:
            self._due = dict.fromkeys(await self._ports.state.installed_keys())
            self._wanted = False
        failed: dict[str, str] = {}
        for key in tuple(self._due):
            try:
                async with asyncio.timeout(self._look_seconds):
                    change = await self._look(key)
            except Exception as error:
                failed[key] = type(error).__name__
                # The next turn begins with the others.
                self._due[key] = self._due.pop(key)
                continue
            del self._due[key]
            if change is not None:
                tell(change)
        if failed:
            told = ", ".join(f"{key} ({error})" for key, error in failed.items())
            raise Unavailable(f"signatures to be verified again are still due: {told}")

    async def _look(self, key: str) -> Fencing | None:
        installed = await self._ports.state.installed(key)
        stored = await self._ports.state.bundle(installed.digest) if installed is not None else None
        if installed is None or stored is None:
            return None
        try:
            await asyncio.to_thread(verify, stored.content, stored.signature, self._ports.trusted())
            reason = ""
        except (SignatureRefused, BundleRefused) as error:
            reason = error.code
        if reason == installed.fenced_reason:
            return None
        await self._ports.installer.fence(key, reason)
        return Fencing(key, reason)


class TrustFollowing:
    """Follows the trusted keys for a runner. `reload` reads them and says whether they changed; `want` has the Addons
    of these keys looked at again, or with None all of them.
    """

    def __init__(
        self, ports: Ports, reload: Callable[[], Awaitable[bool]], want: Callable[[frozenset[str] | None], None]
    ) -> None:
        self._reload = reload
        self._want = want
        self._reverification = Reverification(ports)
        # What was trusted when the process before this one ended, nobody knows.
        self._reverification.want()

    async def run(self) -> None:
        """Read the keys, and hold against them what is due. What is not trusted any more is fenced before anything else
        is looked at. Raises as the reading and `Reverification.run` do; then it goes on with the next call."""
        changed = await self._reload()
        if changed:
            self._reverification.want()
        try:
            await self.verify()
        finally:
            if changed:
                self._want(None)

    async def verify(self) -> None:
        """Hold what is due against the keys as they were read last."""
        if self._reverification.due:
            await self._reverification.run(self._fenced)

    def _fenced(self, change: Fencing) -> None:
        told = "addon.fenced" if change.reason else "addon.freed"
        log.warning(told, addon=change.addon_key, reason=change.reason)
        self._want(frozenset({change.addon_key}))
