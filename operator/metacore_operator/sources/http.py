"""Bundles behind an HTTP address, with the signature beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from metacore.errors import NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.spec import HttpSource as Address
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.folder import SIGNATURE_SUFFIX
from metacore_operator.sources.references import References
from metacore_operator.sources.source import LARGEST_BUNDLE, LARGEST_SIGNATURE, Fetched, Stored, nothing_stored


class HttpSource:
    """Fetches `url`, holds it against `sha256`, and takes the signature from `<url>.sig.json`."""

    def __init__(self, downloader: Downloader, references: References) -> None:
        self._downloader = downloader
        self._references = references

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored) -> Fetched:
        source = addon.spec.source.http
        if source is None:
            raise Refused("the Addon names no address", code="source_refused")
        headers: dict[str, str] = {}
        if source.headers_secret_ref is not None:
            entries = await self._references.secret(addon, source.headers_secret_ref.name)
            headers = _headers(entries, source.headers_secret_ref.name)
        content = await stored(source.sha256) if source.sha256 is not None else None
        if content is None:
            content = await self._download(source, headers)
        path, mark, query = source.url.partition("?")
        try:
            beside = await self._downloader.get(
                path + SIGNATURE_SUFFIX + mark + query, limit=LARGEST_SIGNATURE, headers=headers
            )
        except (NotFound, PermissionDenied):
            return Fetched(content, None, path)
        return Fetched(content, beside.content, path)

    async def _download(self, source: Address, headers: Mapping[str, str]) -> bytes:
        try:
            answer = await self._downloader.get(source.url, limit=LARGEST_BUNDLE, headers=headers)
        except (NotFound, PermissionDenied) as error:
            raise Unavailable(error.message) from error
        digest = hashlib.sha256(answer.content).hexdigest()
        if source.sha256 is not None and digest != source.sha256:
            raise Refused(f"the download has SHA-256 {digest}, the source says {source.sha256}", code="source_refused")
        return answer.content


def _headers(entries: Mapping[str, bytes], secret: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in entries.items():
        text = value.decode("latin-1").strip()
        if any(character in text for character in "\r\n\0"):
            raise Refused(f"Secret {secret!r}: entry {name!r} makes no request header", code="source_refused")
        headers[name] = text
    return headers
