"""Grant what the bundle asks for, as far as the spec accepts it. An upgrade that asks for more waits."""

from __future__ import annotations

from collections.abc import Sequence

from metacore.manifest.model import Capability
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.resources.spec import Capabilities
from metacore_operator.steps.context import Context


async def run(context: Context) -> Outcome:
    bundle = context.bundle
    assert bundle is not None
    asked = bundle.manifest.capabilities
    new = missing(context.addon.spec.capabilities, asked)
    if new:
        names = ", ".join(f"{capability.kind} {capability.target}" for capability in new)
        message = f"version {bundle.manifest.version} asks for {names}: list it in spec.capabilities.list"
        installed = context.installed
        if installed is None or installed.digest != bundle.digest:
            rest = f"; version {installed.version} serves on" if installed is not None and installed.digest else ""
            return Waiting(Reason.CAPABILITIES_PENDING, message + rest)
        # This very version was accepted once. What is no longer listed is taken back, the rest goes on.
        context.grants = tuple(capability for capability in asked if capability not in new)
        return Waiting(Reason.CAPABILITIES_PENDING, message + "; what is not listed was taken back", proceed=True)
    context.grants = asked
    count = len(asked)
    return Done(Reason.CAPABILITIES_GRANTED, f"{count} {'capability' if count == 1 else 'capabilities'} granted")


def missing(accepted: Capabilities, asked: Sequence[Capability]) -> tuple[Capability, ...]:
    """What is asked for and not accepted; a listed prefix such as `orders.*` accepts everything below it."""
    if accepted.accept == "Declared":
        return ()
    return tuple(
        capability
        for capability in asked
        if not any(
            listed.kind == capability.kind and _covers(listed.kind, listed.target, capability.target)
            for listed in accepted.listed
        )
    )


def _covers(kind: str, listed: str, asked: str) -> bool:
    """Contract 11: `prefix.*`, for hosts `*.example.com` (which also means the apex), `*` for events only."""
    if listed == asked:
        return True
    if kind == "http:fetch":
        return listed.startswith("*.") and (asked == listed[2:] or asked.endswith(listed[1:]))
    if listed == "*":
        return kind.startswith("event:")
    return listed.endswith(".*") and asked.startswith(listed[:-1])
