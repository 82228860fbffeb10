"""Bounded downloads through the egress broker, from hosts that an administrator listed, or from public ones."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode, urlsplit

import httpcore2

from metacore.egress.broker import Broker, EgressConfig
from metacore.egress.dialing import BLOCKED
from metacore.egress.outbound import OutboundRequest, OutboundResponse
from metacore.errors import InvalidInput, NotFound, PayloadTooLarge, PermissionDenied, Refused, Unavailable
from metacore_operator.sources.source import AskLater

WHOLE_SECONDS = 300.0
MOST_REDIRECTS = 5
LONGEST_HOLD_SECONDS = 6 * 3600.0
"""What a Retry-After counts at most: the longest window in which a large registry (Docker Hub) counts pulls. A mistake
of a server must not stop an Addon for years."""
NOT_PUBLIC = "the host has an address that is not public, and is not listed in METACORE_OPERATOR_SOURCE_HOSTS"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is 200 or one that was asked for; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Downloader:
    """Fetches from `hosts` only (`*.example.com` for those below it, `host:port` for that port alone), or, without any,
    from public addresses only.

    A host that is listed may have a private address; nobody else may point the operator into its own network.
    """

    def __init__(
        self, hosts: Sequence[str] = (), *, egress: EgressConfig | None = None, whole_seconds: float = WHOLE_SECONDS
    ) -> None:
        self._hosts = tuple(_host_and_port(host.lower()) for host in hosts)
        self._egress = egress
        self._whole_seconds = whole_seconds
        self._trust: ssl.SSLContext | None = None

    async def get(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        also: frozenset[int] = frozenset(),
        form: Mapping[str, str] | None = None,
        head: bool = False,
    ) -> Answer:
        """The answer to a GET, with a `form` to a POST of it, or to a HEAD, at most `limit` bytes long.

        Statuses in `also` are answers, too.

        Raises:
            Refused: a host that may not be asked, or more than `limit` bytes.
            NotFound: 404 and 410. PermissionDenied: 401 and 403.
            AskLater: 429 and 503 that say when to come back.
            Unavailable: everything else that may pass.
        """
        # Compressed answers are not asked for: digests are of the bytes as they lie at their source.
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        if form is not None:
            asked["Content-Type"] = "application/x-www-form-urlencoded"
        request = OutboundRequest(
            "POST" if form is not None else "HEAD" if head else "GET",
            url,
            asked,
            b"" if form is None else urlencode(form).encode(),
            timeout=self._whole_seconds,
            max_response_bytes=limit,
            max_redirects=MOST_REDIRECTS,
        )
        self._trust = self._trust or httpcore2.default_ssl_context()
        # Downloads are rare: no connection is worth keeping until the next.
        broker = Broker(self._egress, trust=self._trust, keep=False, vouched=self._listed)
        try:
            response = await broker.send(request, gate=self._gate)
        except InvalidInput as error:
            raise Refused(f"{shown(url)}: {error.message}", code="source_refused") from error
        except PayloadTooLarge as error:
            raise Refused(f"{shown(url)} is larger than {limit} bytes", code="source_refused") from error
        except PermissionDenied as error:
            message = NOT_PUBLIC if error.code == BLOCKED else error.message
            raise Refused(f"{shown(url)}: {message}", code="source_refused") from error
        except Unavailable as error:
            if error.code == "redirects":
                raise Refused(error.message, code="source_refused") from error
            raise Unavailable(f"{shown(url)} cannot be fetched: {error.message}") from error
        finally:
            await broker.close()
        return _answer(response, url, also)

    def _gate(self, host: str, port: int) -> None:
        if self._hosts and not self._listed(host, port):
            known = any(_matches(pattern, host) for pattern, _ in self._hosts)
            what = f"port {port} of host {host!r}" if known else f"host {host!r}"
            raise PermissionDenied(f"{what} is not among those that bundles may come from")

    def _listed(self, host: str, port: int) -> bool:
        return any(_matches(pattern, host) and only in (None, port) for pattern, only in self._hosts)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """The two parts of `host`, `host:port`, `[address]`, or `[address]:port`; None means every port."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return entry.strip("[]"), None


def _matches(pattern: str, host: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:])


def _answer(response: OutboundResponse, url: str, also: frozenset[int]) -> Answer:
    status = response.status
    if status != 200 and status not in also:
        message = f"{shown(url)} answered {status}"
        if status in (404, 410):
            raise NotFound(message)
        if status in (401, 403):
            raise PermissionDenied(message)
        seconds = _retry_after(response.headers) if status in (429, 503) else 0.0
        if seconds > 0:
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
            raise AskLater(f"{message}, not to be asked before {until:%Y-%m-%dT%H:%M:%SZ}", seconds)
        raise Unavailable(message)
    return Answer(status, dict(response.headers), response.body)


def _retry_after(headers: Sequence[tuple[str, str]]) -> float:
    """Seconds that a Retry-After asks for (RFC 9110, 10.2.3: a number of them, or a date); 0 without one."""
    text = next((value.strip() for name, value in headers if name == "retry-after"), "")
    if text.isascii() and text.isdigit():
        return min(float(text[:18]), LONGEST_HOLD_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
    return min((moment - datetime.datetime.now(datetime.UTC)).total_seconds(), LONGEST_HOLD_SECONDS)


def shown(url: str) -> str:
    """The address without what may be secret in it."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
