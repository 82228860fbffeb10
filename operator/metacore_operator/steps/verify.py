"""Decide whether these bytes may be installed at all: signature first, then what is inside, then the spec's pins."""

from __future__ import annotations

import asyncio

from metacore.bundle.read import Bundle, digest_of, read_bundle
from metacore.bundle.signature import Signature, verify
from metacore.errors import BundleRefused, InvalidInput, Refused, SignatureRefused
from metacore.manifest.compatibility import check_kernel, satisfies
from metacore_operator.outcomes import Done, Outcome, Reason, Stalled
from metacore_operator.steps.context import Context
from metacore_operator.steps.state import InstalledAddon


async def run(context: Context) -> Outcome:
    fetched = context.fetched
    assert fetched is not None
    spec, status = context.addon.spec, context.addon.status
    if status.digest and status.key not in ("", context.addon.key):
        return Stalled(
            Reason.KEY_MISMATCH,
            f"the addon key changed from {status.key!r} to {context.addon.key!r}; delete the Addon and make another",
        )
    digest = await asyncio.to_thread(digest_of, fetched.content)
    if not context.without_source:
        context.ports.sightings.saw(context.addon, digest)
    text = spec.signature.value.encode() if spec.signature is not None and spec.signature.value else fetched.signature
    try:
        signature = Signature.from_json(text) if text is not None else None
        verified = await asyncio.to_thread(verify, fetched.content, signature, context.ports.trusted())
    except SignatureRefused as error:
        installed = context.installed
        if error.code in REVOKED and installed is not None and installed.digest == digest:
            return revoked(installed, error.message)
        return Stalled(Reason.SIGNATURE_REFUSED, f"{fetched.origin}: {error.message}")
    except BundleRefused as error:
        return Stalled(Reason.BUNDLE_INVALID, f"{fetched.origin}: {error.message}")
    if spec.digest is not None and digest != spec.digest:
        return Stalled(Reason.DIGEST_MISMATCH, f"{fetched.origin} has digest {digest}, spec.digest pins {spec.digest}")
    try:
        bundle = await asyncio.to_thread(read_bundle, fetched.content)
        check_kernel(bundle.manifest)
    except InvalidInput as error:
        return Stalled(Reason.BUNDLE_INVALID, f"{fetched.origin}: {error.message}")
    except Refused as error:
        incompatible = error.code == "kernel_version"
        reason = Reason.KERNEL_INCOMPATIBLE if incompatible else Reason.BUNDLE_INVALID
        return Stalled(reason, f"{fetched.origin}: {error.message}")
    if refusal := _pinned(context, bundle):
        return refusal
    context.signature, context.verified, context.bundle = signature, verified, bundle
    if signature is None:
        return Done(Reason.UNSIGNED_ALLOWED, f"{digest[:12]} has no signature; unsigned bundles are allowed")
    return Done(
        Reason.SIGNATURE_VERIFIED, f"{digest[:12]} is signed by {verified.developer_name or verified.signer[:12]}"
    )


REVOKED = frozenset({"untrusted", "no_trusted_keys"})
"""Codes of a signature that is right and whose key is not trusted."""


def revoked(installed: InstalledAddon, why: str) -> Stalled:
    """What is told of an installed bundle whose key was taken out of the trusted ones."""
    return Stalled(
        Reason.KEY_REVOKED,
        f"{why}: the key of the installed version {installed.version} was revoked; nothing of it is served, data stays",
    )


def fenced(installed: InstalledAddon) -> Stalled:
    """What is told of an installed addon that was fenced."""
    if installed.fenced_reason in REVOKED:
        return revoked(installed, "no trusted key made this signature")
    return Stalled(
        Reason.FENCED, f"the signature is no longer trusted ({installed.fenced_reason}): nothing is served, data stays"
    )


def _pinned(context: Context, bundle: Bundle) -> Outcome | None:
    manifest, spec = bundle.manifest, context.addon.spec
    if manifest.key != context.addon.key:
        return Stalled(
            Reason.KEY_MISMATCH, f"the bundle is addon {manifest.key!r}, the Addon declares {context.addon.key!r}"
        )
    if spec.version is not None and not satisfies(manifest.version, spec.version):
        return Stalled(
            Reason.VERSION_MISMATCH, f"the bundle has version {manifest.version}, spec.version allows {spec.version}"
        )
    return None
