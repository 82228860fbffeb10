"""The one decision about every privileged operation of an addon, in shadow and in enforce alike.

Shadow and enforce share every line up to the answer. The grants are those accepted at the installation, as the live
registry holds them, compiled once per addon and snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from metacore.capabilities.access import Access, Decision, Mode
from metacore.capabilities.grants import Grants
from metacore.capabilities.targets import canonical
from metacore.errors import PermissionDenied
from metacore.ids import KERNEL_ADDON_KEY
from metacore.registry import LiveAddon, Registry, Snapshot

_GRANTED: Final = {mode: Decision(allowed=True, granted=True, mode=mode) for mode in Mode}
_RECORDED: Final = Decision(allowed=True, granted=False, mode=Mode.SHADOW)
_REFUSED: Final = Decision(allowed=False, granted=False, mode=Mode.ENFORCE)


@dataclass(frozen=True, slots=True)
class Violation:
    """One operation that was not granted. `mode` says what became of it: shadow let it pass, enforce refused it.

    `forbidden` is what no grant allows: the kernel's own tables, secret columns, blocked addresses; it was refused in
    either mode, and `reason` tells why. `at` is Unix seconds.
    """

    access: Access
    mode: Mode
    at: float
    forbidden: bool = False
    reason: str = ""


class Recorder(Protocol):
    """Where violations go. Must return at once and not raise."""

    def record(self, violation: Violation) -> None: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """An addon as it is held. `addon` is the object that `grants` were compiled from."""

    addon: LiveAddon
    grants: Grants
    enforced: bool
    fenced: bool


class Enforcer:
    """`access.Gate` over the live registry. Asking is safe from any thread."""

    def __init__(
        self,
        registry: Registry,
        recorder: Recorder,
        *,
        mode: Mode = Mode.SHADOW,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.mode = mode
        """The global mode. Whoever follows it sets it; it holds from the next decision on."""
        self._recorder = recorder
        self._now = now
        self._held: dict[str, _Held] = {}
        self._compile(registry.snapshot)
        registry.on_change(self._compile)

    def mode_of(self, addon_key: str) -> Mode:
        """The mode in which this addon is held right now: enforce when the global mode or its own wish says so."""
        held = self._held.get(addon_key)
        return Mode.ENFORCE if self.mode is Mode.ENFORCE or (held is not None and held.enforced) else Mode.SHADOW

    def covers(self, access: Access) -> bool:
        """What the grants say, without recording anything: for those who prepare, not for those who act.

        An addon that is not here was granted nothing, one that is fenced has lost what it was granted.
        """
        held = self._held.get(access.addon_key)
        if held is None:
            return access.addon_key == KERNEL_ADDON_KEY
        return not held.fenced and held.grants.cover(access.kind, access.target, access.organization_id)

    def decide(self, access: Access) -> Decision:
        """Whether `access` may happen; what was not granted is recorded. A fenced addon is refused in either mode."""
        mode = self.mode_of(access.addon_key)
        if self.covers(access):
            return _GRANTED[mode]
        held = self._held.get(access.addon_key)
        if held is not None and held.fenced:
            mode = Mode.ENFORCE
        self._recorder.record(Violation(_canonical(access), mode, self._now()))
        return _REFUSED if mode is Mode.ENFORCE else _RECORDED

    def require(self, access: Access) -> Decision:
        """`decide`, for those who stop when it is not allowed.

        Raises:
            PermissionDenied: with the code `forbidden`, naming kind and target.
        """
        decision = self.decide(access)
        if not decision.allowed:
            raise PermissionDenied(
                f"addon {access.addon_key!r} was not granted {access.kind} {_canonical(access).target!r}",
                code="forbidden",
            )
        return decision

    def record_refused(self, access: Access, reason: str) -> None:
        """Record what the caller refused because no grant allows it: the kernel's own tables, secret columns, blocked
        addresses. `reason` is a short sentence for the log."""
        violation = Violation(
            _canonical(access), self.mode_of(access.addon_key), self._now(), forbidden=True, reason=reason
        )
        self._recorder.record(violation)

    def _compile(self, snapshot: Snapshot) -> None:
        # One assignment at the end: a decision in another thread sees the old picture or the new one.
        held: dict[str, _Held] = {}
        for key, addon in snapshot.addons.items():
            known = self._held.get(key)
            held[key] = known if known is not None and known.addon is addon else _hold(addon)
        self._held = held


def _hold(addon: LiveAddon) -> _Held:
    return _Held(addon, Grants(addon.key, addon.grants), addon.mode == Mode.ENFORCE, bool(addon.fenced_reason))


def _canonical(access: Access) -> Access:
    target = canonical(access.kind, access.target, access.organization_id)
    if target == access.target:
        return access
    return Access(access.addon_key, access.kind, target, access.organization_id, access.caller)
