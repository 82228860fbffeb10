"""Hold what is installed against the trust of today: an addon whose signature no longer counts is fenced at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from metacore.bundle.signature import verify
from metacore.errors import SignatureRefused
from metacore_operator.steps.context import Ports


@dataclass(frozen=True, slots=True)
class Fencing:
    """A change of one addon; `reason` is '' when its fence was lifted."""

    addon_key: str
    reason: str


async def reverify(ports: Ports) -> tuple[Fencing, ...]:
    """Verify every installed bundle again and fence or free what differs. Installed data is never touched."""
    changes: list[Fencing] = []
    for key in await ports.state.installed_keys():
        installed = await ports.state.installed(key)
        stored = await ports.state.bundle(installed.digest) if installed is not None else None
        if installed is None or stored is None:
            continue
        try:
            await asyncio.to_thread(verify, stored.content, stored.signature, ports.trusted())
            reason = ""
        except SignatureRefused as error:
            reason = error.code
        if reason != installed.fenced_reason:
            await ports.installer.fence(key, reason)
            changes.append(Fencing(key, reason))
    return tuple(changes)
