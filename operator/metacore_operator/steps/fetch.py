"""Get the bundle and the signature that goes with it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from metacore.errors import Refused, Unavailable
from metacore_operator.outcomes import ConditionType, Done, Outcome, Reason, Stalled, Waiting
from metacore_operator.resources.addon import REQUESTED_AT
from metacore_operator.sources.source import AskLater, Fetched
from metacore_operator.steps.context import Context


async def run(context: Context) -> Outcome:
    spec = context.addon.spec
    kind = spec.source.kind
    source = context.ports.sources.get(kind)
    if source is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, f"sources of kind {kind.value!r} are not supported here")
    if spec.signature is not None and spec.signature.secret_ref is not None and context.ports.references is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, "spec.signature.secretRef is not supported here")
    pinned = await _pinned(context)
    if pinned is not None and not _anew(context):
        return _taken(context, pinned)
    held = context.ports.sightings.held(context.addon)
    try:
        if held is not None:
            return _taken(context, pinned, held[1]) if pinned else await _without(context, held[1], held[0])
        fetched = await source.fetch(context.addon, lambda digest: _kept(context, digest), anew=_anew(context))
        signature = await _signature(context)
        if pinned is not None and hashlib.sha256(fetched.content).hexdigest() != spec.digest:
            # What the source says of another bundle is no news of this one.
            return _taken(context, pinned, "the source has another one")
    except (AskLater, Unavailable, Refused) as error:
        if isinstance(error, AskLater):
            context.ports.sightings.hold(context.addon, error.seconds, error.message)
        if pinned is not None:
            return _taken(context, pinned, error.message)
        if isinstance(error, Refused):
            return Stalled(Reason.SOURCE_REFUSED, error.message)
        return await _without(context, error.message, error.seconds if isinstance(error, AskLater) else None)
    context.fetched = fetched if signature is None else replace(fetched, signature=signature)
    return Done(Reason.SOURCE_AVAILABLE, f"the bundle is that of {fetched.origin}")


def _taken(context: Context, pinned: Fetched, why: str = "the source is not asked") -> Outcome:
    context.fetched = pinned
    return Done(Reason.SOURCE_AVAILABLE, f"{pinned.origin} is taken; {why}")


def _anew(context: Context) -> bool:
    """Whether the source is asked for everything, also for what cannot have changed: somebody wants it, or what it gave
    last was not good enough, and a signature beside the same bundle may be the remedy."""
    addon, installed = context.addon, context.installed
    verified = addon.status.condition(ConditionType.VERIFIED)
    refused = verified is not None and verified.status != "True"
    return _asked(context) or refused or (installed is not None and bool(installed.fenced_reason))


def _asked(context: Context) -> bool:
    """Whether somebody asks for a reconcile by an annotation."""
    addon = context.addon
    return addon.forced or addon.asked(REQUESTED_AT) not in ("", addon.status.last_handled_requested_at)


async def _without(context: Context, why: str, retry_after: float | None) -> Outcome:
    """Go on with what is installed while the source gives nothing, where it is what the source gave last for this very
    spec: organizations, settings and repairs need no source. It goes through everything that a fetched one does, so a
    key that is no longer trusted fences it. Where there is no such thing, wait."""
    addon, installed = context.addon, context.installed
    if (
        installed is not None
        and installed.owner_uid == addon.metadata.uid
        and context.ports.sightings.gave(addon, installed)
        and (stored := await _stored(context, installed.digest)) is not None
    ):
        context.fetched = stored
        context.without_source = True
        # What the status told is known from now on: a failure on the way must not take it back.
        context.ports.sightings.saw(addon, installed.digest)
        return Waiting(
            Reason.SOURCE_UNAVAILABLE,
            f"{why}; the installed version {installed.version} goes on",
            proceed=True,
            decisive=False,
        )
    return Waiting(Reason.SOURCE_UNAVAILABLE, why, retry_after=retry_after)


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
    return await _stored(context, digest) if digest is not None else None


async def _stored(context: Context, digest: str) -> Fetched | None:
    stored = await context.ports.state.bundle(digest) if digest else None
    if stored is None or stored.addon_key != context.addon.key:
        return None
    signature = stored.signature.model_dump_json().encode() if stored.signature is not None else None
    return Fetched(stored.content, signature, f"bundle {digest[:12]} of an earlier installation")
