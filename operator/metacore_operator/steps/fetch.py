"""Get the bundle and the signature that goes with it."""

from __future__ import annotations

from metacore.errors import Refused, Unavailable
from metacore_operator.outcomes import Done, Outcome, Reason, Stalled, Waiting
from metacore_operator.sources.source import Fetched
from metacore_operator.steps.context import Context


async def run(context: Context) -> Outcome:
    spec = context.addon.spec
    kind = spec.source.kind
    source = context.ports.sources.get(kind)
    if source is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, f"sources of kind {kind.value!r} are not supported here")
    if spec.signature is not None and spec.signature.secret_ref is not None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, "spec.signature.secretRef is not supported here")
    if spec.settings_from:
        return Stalled(Reason.SETTINGS_UNSUPPORTED, "spec.settingsFrom is not supported here")
    if stored := await _pinned(context):
        context.fetched = stored
        return Done()
    try:
        context.fetched = await source.fetch(context.addon)
    except Unavailable as error:
        return Waiting(Reason.SOURCE_UNAVAILABLE, error.message)
    except Refused as error:
        return Stalled(Reason.SOURCE_REFUSED, error.message)
    return Done()


async def _pinned(context: Context) -> Fetched | None:
    """The pinned bundle where the database still has it: a rollback must not need a registry that keeps old versions.

    It goes through everything that a fetched one does, the signature first.
    """
    digest = context.addon.spec.digest
    stored = await context.ports.state.bundle(digest) if digest is not None else None
    if stored is None or stored.addon_key != context.addon.key:
        return None
    signature = stored.signature.model_dump_json().encode() if stored.signature is not None else None
    return Fetched(stored.content, signature, f"bundle {(digest or '')[:12]} of an earlier installation")
