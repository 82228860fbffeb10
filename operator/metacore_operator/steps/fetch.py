"""Get the bundle and the signature that goes with it."""

from __future__ import annotations

from dataclasses import replace

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
    if spec.signature is not None and spec.signature.secret_ref is not None and context.ports.references is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, "spec.signature.secretRef is not supported here")
    if stored := await _pinned(context):
        context.fetched = stored
        return Done()
    try:
        fetched = await source.fetch(context.addon, lambda digest: _kept(context, digest))
        signature = await _signature(context)
        context.fetched = fetched if signature is None else replace(fetched, signature=signature)
    except Unavailable as error:
        return Waiting(Reason.SOURCE_UNAVAILABLE, error.message)
    except Refused as error:
        return Stalled(Reason.SOURCE_REFUSED, error.message)
    return Done()


async def _signature(context: Context) -> bytes | None:
    """The signature that a Secret holds, when the spec says so; it counts instead of the one beside the bundle."""
    signature, references = context.addon.spec.signature, context.ports.references
    if signature is None or signature.secret_ref is None or references is None:
        return None
    reference = signature.secret_ref
    entries = await references.secret(context.addon, reference.name)
    if reference.key and reference.key not in entries:
        raise Unavailable(f"Secret {reference.name!r} has no entry {reference.key!r}")
    if not reference.key and len(entries) != 1:
        raise Refused(
            f"Secret {reference.name!r} has {len(entries)} entries: name one in spec.signature.secretRef.key",
            code="source_refused",
        )
    return entries[reference.key] if reference.key else next(iter(entries.values()))


async def _kept(context: Context, digest: str) -> bytes | None:
    """A bundle of this addon that the database has under that digest: it need not travel again every minute."""
    installed = context.installed
    if installed is None or installed.digest != digest or installed.owner_uid != context.addon.metadata.uid:
        return None
    found = await context.ports.state.bundle(digest)
    return found.content if found is not None else None


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
