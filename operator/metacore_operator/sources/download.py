"""Bounded downloads: known hosts, checked addresses, a size limit, a deadline, and no redirect followed unchecked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from metacore.errors import NotFound, PermissionDenied, Refused, Unavailable

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
WHOLE_SECONDS = 300.0
MOST_REDIRECTS = 5
CHUNK = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is 200 or one that was asked for; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Downloader:
    """Fetches from `hosts` only (`*.example.com` for those below it), or, without any, from public addresses only.

    A host that is listed may have a private address; nobody else may point the operator into its own network. One
    connector resolves and connects, so the address that was checked is the one that is used.
    """

    def __init__(self, hosts: Sequence[str] = (), *, whole_seconds: float = WHOLE_SECONDS) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._whole_seconds = whole_seconds

    async def get(
        self, url: str, *, limit: int, headers: Mapping[str, str] | None = None, also: frozenset[int] = frozenset()
    ) -> Answer:
        """The answer to a GET, at most `limit` bytes long. Statuses in `also` are answers, too.

        Raises:
            Refused: a host that may not be asked, or more than `limit` bytes.
            NotFound: 404 and 410. PermissionDenied: 401 and 403.
            Unavailable: everything else that may pass.
        """
        timeout = aiohttp.ClientTimeout(total=self._whole_seconds, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        connector = aiohttp.TCPConnector(resolver=_Checked(self._must_be_public), use_dns_cache=False, force_close=True)
        given = dict(headers or {})
        try:
            async with aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session:
                for _ in range(MOST_REDIRECTS + 1):
                    self._check(url)
                    # Compressed answers are not asked for: what they unpack to could not be bounded.
                    async with session.get(
                        url, headers={"Accept-Encoding": "identity", **given}, allow_redirects=False
                    ) as response:
                        if response.status not in REDIRECTS:
                            return await _answer(response, url, limit, also)
                        url, given = _redirected(url, response.headers.get("Location", ""), given)
        except aiohttp.ClientError as error:
            raise Unavailable(f"{_shown(url)} cannot be fetched: {_reason(error)}") from error
        except TimeoutError as error:
            raise Unavailable(f"{_shown(url)} took too long") from error
        raise Refused(f"{_shown(url)} redirects more than {MOST_REDIRECTS} times", code="source_refused")

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise Refused(f"{_shown(url)} is no http or https address", code="source_refused")
        if parts.username is not None:
            raise Refused("an address may hold no credentials; use a Secret", code="source_refused")
        if self._hosts and not self._listed(host):
            raise Refused(f"host {host!r} is not among those that bundles may come from", code="source_refused")
        # A literal address is never resolved.
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        if self._must_be_public(host) and not _public(str(address)):
            raise Refused(f"{host} is not a public address", code="source_refused")

    def _listed(self, host: str) -> bool:
        return any(
            host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:])
            for pattern in self._hosts
        )

    def _must_be_public(self, host: str) -> bool:
        return not self._listed(host.lower())


class _Checked(AbstractResolver):
    def __init__(self, must_be_public: Callable[[str], bool]) -> None:
        self._inner = ThreadedResolver()
        self._must_be_public = must_be_public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._must_be_public(host):
            for item in found:
                if not _public(item["host"]):
                    raise Refused(f"host {host!r} has an address that is not public", code="source_refused")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%", 1)[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not (mapped or parsed).is_multicast


async def _answer(response: aiohttp.ClientResponse, url: str, limit: int, also: frozenset[int]) -> Answer:
    status = response.status
    if status != 200 and status not in also:
        message = f"{_shown(url)} answered {status}"
        if status in (404, 410):
            raise NotFound(message)
        if status in (401, 403):
            raise PermissionDenied(message)
        raise Unavailable(message)
    too_large = Refused(f"{_shown(url)} is larger than {limit} bytes", code="source_refused")
    if (response.content_length or 0) > limit:
        raise too_large
    content = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        content += chunk
        if len(content) > limit:
            raise too_large
        await asyncio.sleep(0)
    return Answer(status, {name.lower(): value for name, value in response.headers.items()}, bytes(content))


def _redirected(url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Where to go on, and with which headers: credentials stay with the host that they are for."""
    target = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(target)
    if before.scheme == "https" and after.scheme != "https":
        raise Refused(f"{_shown(url)} redirects from https to {after.scheme or 'nothing'}", code="source_refused")
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):
        headers = {name: value for name, value in headers.items() if name.lower() == "accept"}
    return target, headers


def _shown(url: str) -> str:
    """The address without what may be secret in it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _reason(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name is unknown"
    if isinstance(error, aiohttp.ClientSSLError):
        return "its TLS certificate is not accepted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or "no connection"
    return type(error).__name__
