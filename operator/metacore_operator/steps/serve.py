"""Wait until every live kernel serves exactly the installed bundle. What is fenced is served by none."""

from __future__ import annotations

from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.steps.context import Context
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
    return Done(Reason.ACKNOWLEDGED, f"{len(kernels)} of {len(kernels)} kernels loaded {digest[:12]}")
