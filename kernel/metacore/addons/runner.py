"""Running an addon's code, whatever set it off: may it run here, how, and what is told of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping

from metacore.addons.guest_context import GuestContext, GuestTransaction
from metacore.addons.handlers.run import HandlerRuns, Run
from metacore.addons.invocation import HandlerKind, Invocation, Result
from metacore.errors import Fenced, MetacoreError, NotFound, NotWired, Unavailable
from metacore.ids import KERNEL_ADDON_KEY
from metacore.logs import get_logger
from metacore.metrics import Metrics
from metacore.registry import Registry

log = get_logger(__name__)

OK, DECLINED, FAILED, REFUSED = "ok", "declined", "failed", "refused"
"""Outcomes: done; the code said no; the code broke; it was not run at all."""

BROKEN = frozenset({"runtime_error", "timeout", "memory_exhausted", "invalid_reply", "payload_too_large"})
"""Codes of results that tell of code that broke, and not of code that declined."""


class AddonRunner:
    """`invocation.Runner`. `kinds` are the handlers that this process can run."""

    def __init__(
        self, registry: Registry, kinds: Mapping[HandlerKind, HandlerRuns], metrics: Metrics | None = None
    ) -> None:
        self._registry = registry
        self._kinds = dict(kinds)
        self._metrics = metrics

    async def run(self, invocation: Invocation) -> Result:
        return await self.run_within(invocation, None)

    async def run_within(self, invocation: Invocation, transaction: GuestTransaction | None) -> Result:
        """`run`, with the transaction that the code's own writes belong to."""
        began = time.perf_counter()
        outcome = FAILED
        try:
            run = self._permitted(invocation, transaction)
            kind = self._kinds.get(invocation.handler.kind)
            if kind is None:
                raise NotWired(f"this process runs no {invocation.handler.kind} handlers", code="no_runtime")
            result = await kind.run(run)
            outcome = OK if result.success else FAILED if result.code in BROKEN else DECLINED
        except MetacoreError:
            outcome = REFUSED
            raise
        finally:
            self._count(invocation, outcome, time.perf_counter() - began)
        self._tell(invocation, result, outcome, time.perf_counter() - began)
        return result

    def _permitted(self, invocation: Invocation, transaction: GuestTransaction | None) -> Run:
        key, organization_id = invocation.addon_key, invocation.organization_id
        snapshot = self._registry.snapshot
        addon = snapshot.addons.get(key)
        installed = snapshot.installed.get(organization_id, {}).get(key)
        if addon is not None and addon.fenced_reason:
            raise Fenced(f"addon {key!r} is fenced: its signature is no longer trusted")
        # The farewell of an addon runs once it is disabled or gone, and its first handler maybe before it is served.
        if invocation.trigger != "lifecycle" and (addon is None or installed is None or not installed.enabled):
            raise NotFound(f"addon {key[:64]!r} is not installed and enabled here", code="not_installed")
        digest = invocation.digest or (addon.digest if addon is not None else "")
        if addon is not None and addon.error and digest == addon.digest:
            raise Unavailable(f"addon {key!r} is quarantined: {addon.error}", code="quarantined")
        if not digest:
            raise NotFound(f"addon {key[:64]!r} is not installed here", code="not_installed")
        principal = invocation.principal
        caller = invocation.caller or (str(principal.user_id) if principal is not None else invocation.trigger)
        context = GuestContext(key, organization_id, caller, principal, transaction)
        return Run(invocation, context, digest, addon, installed)

    def _count(self, invocation: Invocation, outcome: str, seconds: float) -> None:
        if self._metrics is None:
            return
        trigger, kind = invocation.trigger, invocation.handler.kind
        # What a caller made up must not become a series of its own.
        known = invocation.addon_key in self._registry.snapshot.addons
        key = invocation.addon_key if known else KERNEL_ADDON_KEY
        self._metrics.addon_invocations.labels(key, trigger, kind, outcome).inc()
        self._metrics.addon_invocation_duration.labels(trigger, kind).observe(seconds)

    def _tell(self, invocation: Invocation, result: Result, outcome: str, seconds: float) -> None:
        fields = {
            "addon": invocation.addon_key,
            "organization": str(invocation.organization_id),
            "trigger": invocation.trigger,
            "name": invocation.name,
            "kind": invocation.handler.kind,
            "invocation": str(invocation.id),
            "seconds": round(seconds, 4),
        }
        if outcome == OK:
            log.debug("addon.invoked", **fields)
        elif outcome == DECLINED:
            log.info("addon.declined", code=result.code, **fields)
        else:
            log.warning("addon.failed", code=result.code, reason=result.message, **fields)
