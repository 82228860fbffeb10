"""Get the bundle and the signature that goes with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from metacore.bundle.read import digest_of
from metacore.errors import Refused, Unavailable
from metacore_operator.outcomes import ConditionType, Done, Outcome, Reason, Stalled, Waiting
from metacore_operator.resources.addon import REQUESTED_AT
from metacore_operator.resources.spec import SourceKind
from metacore_operator.sources.source import AskLater, Fetched, Look
from metacore_operator.steps.context import Context

REMOTE = frozenset({SourceKind.OCI, SourceKind.HTTP})
"""Sources whose bundles travel."""


async def run(context: Context) -> Outcome:
    spec = context.addon.spec
    kind = spec.source.kind
    source = context.ports.sources.get(kind)
    if source is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, f"sources of kind {kind.value!r} are not supported here")
    if spec.signature is not None and spec.signature.secret_ref is not None and context.ports.references is None:
        return Stalled(Reason.SOURCE_UNSUPPORTED, "spec.signature.secretRef is not supported here")
    pinned = await _pinned(context)
    look = _look(context)
    if pinned is not None and look is Look.CHEAP:
        return _taken(context, pinned)
    held = context.ports.sightings.held(context.addon)
    try:
        if held is not None:
            return _taken(context, pinned, held[1]) if pinned else await _without(context, held[1], held[0])
        fetched = await source.fetch(context.addon, lambda digest: _kept(context, digest), look=look)
        if look is Look.ALL:
            context.ports.sightings.looked(context.addon)
        if kind in REMOTE:
            await _shelve(context, fetched.content)
        signature = await _signature(context)
        if pinned is not None and digest_of(fetched.content) != spec.digest:
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


def _look(context: Context) -> Look:
    """Everything is for whoever wants it, once. A signature beside the same bundle may be the remedy when what the
    source gave last was not good enough."""
    addon, installed = context.addon, context.installed
    verified = addon.status.condition(ConditionType.VERIFIED)
    refused = verified is not None and verified.status != "True"
    if _asked(context) and not context.ports.sightings.has_looked(addon):
        return Look.ALL
    fenced = installed is not None and bool(installed.fenced_reason)
    return Look.SIGNATURE if _asked(context) or refused or fenced else Look.CHEAP


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
    """A bundle that is installed, or was fetched for this Addon before: it need not travel again every minute."""
    if not _installed(context, digest):
        return await context.ports.shelf.recall(context.addon.metadata.uid, digest)
    found = await context.ports.state.bundle(digest)
    return found.content if found is not None else None


def _installed(context: Context, digest: str) -> bool:
    installed = context.installed
    return installed is not None and installed.digest == digest and installed.owner_uid == context.addon.metadata.uid


async def _shelve(context: Context, content: bytes) -> None:
    """Whatever becomes of it: what is installed lies in the database, anything else is looked at again."""
    digest, uid = await asyncio.to_thread(digest_of, content), context.addon.metadata.uid
    if _installed(context, digest):
        context.ports.shelf.forget(uid)
    else:
        await context.ports.shelf.keep(uid, digest, content)


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
