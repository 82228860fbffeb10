"""Grant what the bundle asks for, as far as somebody approved it. An upgrade that asks for more waits."""

from __future__ import annotations

from collections.abc import Sequence

from metacore.capabilities.grants import missing
from metacore.manifest.model import Capability
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.resources.spec import Capabilities
from metacore_operator.steps.context import Context
from metacore_operator.steps.state import InstalledAddon


async def run(context: Context) -> Outcome:
    bundle, installed = context.bundle, context.installed
    assert bundle is not None
    asked = bundle.manifest.capabilities
    serving = installed if installed is not None and installed.digest else None
    upgraded = serving if serving is not None and serving.digest != bundle.digest else None
    new = missing(bundle.manifest.key, asked, approved(context.addon.spec.capabilities, asked, upgraded))
    if new:
        names = ", ".join(f"{capability.kind} {capability.target}" for capability in new)
        message = (
            f"version {bundle.manifest.version} asks for {names}: to approve it, list it in spec.capabilities.list"
        )
        if upgraded is not None:
            return Waiting(Reason.CAPABILITIES_PENDING, f"{message}; version {upgraded.version} serves on")
        if serving is None:
            return Waiting(Reason.CAPABILITIES_PENDING, message)
        # This very version is installed. What is no longer listed is taken back, the rest goes on.
        context.grants = tuple(capability for capability in asked if capability not in new)
        return Waiting(Reason.CAPABILITIES_PENDING, f"{message}; until then it is taken back", proceed=True)
    context.grants = asked
    count = len(asked)
    return Done(Reason.CAPABILITIES_GRANTED, f"{count} {'capability' if count == 1 else 'capabilities'} granted")


def approved(wish: Capabilities, asked: Sequence[Capability], upgraded: InstalledAddon | None) -> Sequence[Capability]:
    """What may be granted of what a version asks for; `upgraded` is another one that it replaces.

    With Declared the first version is granted all, and the installed one too, for it was approved when it came; an
    upgrade is granted what the version before it was, and what is listed.
    """
    listed = [Capability(kind=item.kind, target=item.target, reason=item.reason) for item in wish.listed]
    if wish.accept == "Listed":
        return listed
    if wish.accept == "Always" or upgraded is None:
        return asked
    return [*upgraded.grants, *listed]
