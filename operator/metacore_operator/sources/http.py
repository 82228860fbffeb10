"""Bundles behind an HTTP address, with the signature beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from metacore.errors import NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.spec import HttpSource as Address
from metacore_operator.sources.download import Answer, Downloader
from metacore_operator.sources.folder import SIGNATURE_SUFFIX
from metacore_operator.sources.memory import Memory
from metacore_operator.sources.references import References
from metacore_operator.sources.source import LARGEST_BUNDLE, LARGEST_SIGNATURE, Fetched, Look, Stored, nothing_stored

NOTHING: frozenset[int] = frozenset()
UNCHANGED: frozenset[int] = frozenset({304})


@dataclass(frozen=True, slots=True)
class _Downloaded:
    """`bundle` is its SHA-256 in hex. The mappings are the headers that ask whether something changed, empty where the
    server gave nothing to ask with."""

    bundle: str
    bundle_marks: Mapping[str, str]
    signature: bytes | None
    signature_marks: Mapping[str, str]


class HttpSource:
    """Fetches `url`, holds it against `sha256`, and takes the signature from `<url>.sig.json`.

    What was fetched and is stored still is asked for again with If-None-Match and If-Modified-Since.
    """

    def __init__(self, downloader: Downloader, references: References) -> None:
        self._downloader = downloader
        self._references = references
        self._memory: Memory[_Downloaded] = Memory()

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        source = addon.spec.source.http
        if source is None:
            raise Refused("the Addon names no address", code="source_refused")
        headers: dict[str, str] = {}
        if source.headers_secret_ref is not None:
            entries = await self._references.secret(addon, source.headers_secret_ref.name)
            headers = _headers(entries, source.headers_secret_ref.name)
        asked = source.model_dump_json()
        before = self._memory.recall(addon, asked) if look is not Look.ALL else None
        content = await stored(source.sha256) if source.sha256 is not None else None
        digest, marks = source.sha256 or "", before.bundle_marks if before is not None else {}
        if content is None:
            content, digest, marks = await self._download(source, headers, before, stored)
            if source.sha256 not in (None, digest):
                # The next look asks whether it is still this one, and need not read it again to refuse it.
                self._memory.keep(addon, asked, _Downloaded(digest, marks, None, {}), None)
                raise Refused(
                    f"the download has SHA-256 {digest}, the source says {source.sha256}", code="source_refused"
                )
        path, mark, query = source.url.partition("?")
        beside = before if look is Look.CHEAP else None
        signature, signature_marks = await self._beside(path + SIGNATURE_SUFFIX + mark + query, headers, beside)
        self._memory.keep(addon, asked, _Downloaded(digest, marks, signature, signature_marks), signature)
        return Fetched(content, signature, path)

    async def _download(
        self, source: Address, headers: Mapping[str, str], before: _Downloaded | None, stored: Stored
    ) -> tuple[bytes, str, Mapping[str, str]]:
        """The bundle, its SHA-256 in hex, and how to ask for it the next time. Of one that is not what the source says,
        which was refused before and is there still, there is nothing but that."""
        known = await stored(before.bundle) if before is not None and before.bundle_marks else None
        if known is None and before is not None and source.sha256 not in (None, before.bundle):
            known = b""
        marks = before.bundle_marks if before is not None and known is not None else {}
        try:
            answer = await self._downloader.get(
                source.url, limit=LARGEST_BUNDLE, headers={**headers, **marks}, also=UNCHANGED if marks else NOTHING
            )
        except (NotFound, PermissionDenied) as error:
            raise Unavailable(error.message) from error
        if answer.status == 304 and before is not None and known is not None:
            return known, before.bundle, marks
        digest = hashlib.sha256(answer.content).hexdigest()
        return answer.content, digest, _marks(answer)

    async def _beside(
        self, url: str, headers: Mapping[str, str], before: _Downloaded | None
    ) -> tuple[bytes | None, Mapping[str, str]]:
        """The signature, None when there is none, and how to ask for it the next time."""
        marks = before.signature_marks if before is not None else {}
        try:
            answer = await self._downloader.get(
                url, limit=LARGEST_SIGNATURE, headers={**headers, **marks}, also=UNCHANGED if marks else NOTHING
            )
        except (NotFound, PermissionDenied):
            return None, {}
        if answer.status == 304 and before is not None:
            return before.signature, marks
        return answer.content, _marks(answer)


def _marks(answer: Answer) -> dict[str, str]:
    """Headers that ask for what is not this answer. What could not be sent back is no mark."""
    marks = {"If-None-Match": answer.headers.get("etag"), "If-Modified-Since": answer.headers.get("last-modified")}
    return {name: value for name, value in marks.items() if value and value.isascii() and value.isprintable()}


def _headers(entries: Mapping[str, bytes], secret: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in entries.items():
        text = value.decode("latin-1").strip()
        if any(character in text for character in "\r\n\0"):
            raise Refused(f"Secret {secret!r}: entry {name!r} makes no request header", code="source_refused")
        headers[name] = text
    return headers
