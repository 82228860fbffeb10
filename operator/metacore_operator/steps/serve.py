"""Wait until every live kernel serves exactly the installed bundle, and until the addon's own handlers came through.

What is fenced is served by none.
"""

from __future__ import annotations

from collections.abc import Sequence

from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.steps.context import Context
from metacore_operator.steps.state import OpenHandler
from metacore_operator.steps.verify import fenced


async def run(context: Context) -> Outcome:
    assert context.bundle is not None
    key, digest = context.addon.key, context.bundle.digest
    installed = await context.ports.state.installed(key)
    if installed is not None and installed.fenced_reason:
        return fenced(installed)
    kernels = await context.ports.state.kernels()
    if not kernels:
        return Waiting(Reason.NO_KERNELS, "no kernel is alive")
    loaded = {kernel.pod: kernel.addons.get(key) for kernel in kernels}
    broken = [
        f"{pod}: {addon.error}" for pod, addon in loaded.items() if addon and addon.digest == digest and addon.error
    ]
    if broken:
        return Waiting(Reason.KERNEL_ERROR, "; ".join(broken))
    late = [pod for pod, addon in loaded.items() if addon is None or addon.digest != digest]
    if late:
        ready = len(kernels) - len(late)
        message = f"{ready} of {len(kernels)} kernels loaded {digest[:12]}; waiting for {', '.join(late)}"
        return Waiting(Reason.KERNELS_PENDING, message)
    if (handlers := await context.ports.state.open_handlers(key)) and (waiting := _handlers(handlers)):
        return waiting
    return Done(Reason.ACKNOWLEDGED, f"{len(kernels)} of {len(kernels)} kernels loaded {digest[:12]}")


def _handlers(handlers: Sequence[OpenHandler]) -> Waiting:
    """The worst that is to be told of handlers that have not come through: failed for good, failing, not yet run."""
    worst = max(handlers, key=lambda handler: (handler.given_up, bool(handler.error)))
    same = sum(handler.event == worst.event for handler in handlers)
    where = f"organization {worst.organization}" + (f" and {same - 1} more" if same > 1 else "")
    if not worst.error:
        return Waiting(Reason.HANDLERS_PENDING, f"the {worst.event} handler has not run yet in {where}")
    tries = f"{worst.attempts} tries, given up" if worst.given_up else f"{worst.attempts} tries so far"
    return Waiting(Reason.HANDLER_FAILED, f"the {worst.event} handler fails in {where}: {worst.error} ({tries})")
