"""The broker: one request in, one response out, and between them every rule about leaving this network.

A URL is parsed once (`targets`), the gate is asked, the address is judged and dialled (`dialing`), redirects are
followed here and pass through all of it again. Proxies of the environment are never looked at; `EgressConfig.proxy`
alone decides.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import httpcore2

from metacore.egress.addresses import AddressRules, Network, Opening
from metacore.egress.bodies import read_body
from metacore.egress.dialing import BLOCKED, Dialer, Proxy
from metacore.egress.headers import HARMLESS, checked_headers, checked_method
from metacore.egress.outbound import HostGate, OutboundRequest, OutboundResponse
from metacore.egress.resolving import Resolver, SystemResolver, owner
from metacore.egress.targets import Target, parse_target
from metacore.errors import InvalidInput, MetacoreError, Misconfigured, PayloadTooLarge, PermissionDenied, Unavailable
from metacore.logs import get_logger
from metacore.metrics import Metrics
from metacore.version import __version__

log = get_logger(__name__)

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_CONNECTIONS: Final = 256
KEPT_CONNECTIONS: Final = 32
KEPT_SECONDS: Final = 4.0
"""Less than servers keep an idle connection (uvicorn and Node 5 s), so that a request meets no closing one."""


@dataclass(frozen=True, kw_only=True)
class EgressConfig:
    """`openings` are private places that may be reached nevertheless, `denied` public networks that may not; `proxy` is
    the way out of clusters that have no other. `resolver` None means the system's."""

    openings: tuple[Opening, ...] = ()
    denied: tuple[Network, ...] = ()
    proxy: Proxy | None = field(default=None, repr=False)
    resolver: Resolver | None = None

    @classmethod
    def parse(cls, allow_private: Iterable[str] = (), deny: Iterable[str] = (), proxy: str = "") -> EgressConfig:
        """From settings, as docs/egress.md describes them.

        Raises:
            Misconfigured: names the setting and the entry.
        """
        try:
            openings = tuple(Opening.parse(entry) for entry in allow_private)
        except ValueError as error:
            raise Misconfigured(f"METACORE_EGRESS_ALLOW_PRIVATE: {error}") from None
        try:
            denied = tuple(ipaddress.ip_network(entry) for entry in deny)
        except ValueError as error:
            raise Misconfigured(f"METACORE_EGRESS_DENY: {error}") from None
        return cls(openings=openings, denied=denied, proxy=Proxy.parse(proxy) if proxy else None)


class Broker:
    """Implements `Outbound`. One per event loop; `close` ends kept connections. `keep` false opens a connection for
    each request. `trust` is the TLS context, by default with the certificate authorities of the system. `vouched` tells
    hosts with ports that an administrator listed by name, which may therefore have a private address."""

    def __init__(
        self,
        config: EgressConfig | None = None,
        *,
        metrics: Metrics | None = None,
        trust: ssl.SSLContext | None = None,
        keep: bool = True,
        vouched: Callable[[str, int], bool] | None = None,
    ) -> None:
        config = config or EgressConfig()
        self._metrics = metrics
        self._system = SystemResolver()
        rules = AddressRules(config.openings, config.denied, vouched)
        self._dialer = Dialer(rules, config.resolver or self._system, config.proxy)
        self._trust = trust
        self._kept = KEPT_CONNECTIONS if keep else 0
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def send(self, request: OutboundRequest, *, gate: HostGate | None = None) -> OutboundResponse:
        """See `Outbound`. Redirects are followed at most `max_redirects` times; with 0 the redirect is the answer.

        A gzipped body is unpacked, unless the request carries an Accept-Encoding of its own: then it arrives as sent.
        """
        begun = time.monotonic()
        outcome = "error"
        # Names are looked up where the connection is made, which the HTTP library does within this task.
        sending_for = owner.set(request.owner)
        try:
            response = await self._within_time(request, gate)
            outcome = "answered"
            return response
        except MetacoreError as error:
            outcome = _outcome(error)
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            owner.reset(sending_for)
            if self._metrics is not None:
                self._metrics.observe_egress(outcome, time.monotonic() - begun)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()
        self._system.close()

    async def _within_time(self, request: OutboundRequest, gate: HostGate | None) -> OutboundResponse:
        target = parse_target(request.url)
        method, headers = checked_method(request.method), checked_headers(request.headers)
        timing = asyncio.timeout(request.timeout)
        try:
            async with timing:
                return await self._follow(replace(request, method=method, headers=headers), target, gate)
        except TimeoutError:
            raise Unavailable(f"{target.origin} gave no answer within {request.timeout:g} s", code="timeout") from None
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            raise Unavailable(f"{target.origin}: {_reason(error)}") from error

    async def _follow(self, request: OutboundRequest, target: Target, gate: HostGate | None) -> OutboundResponse:
        for followed in range(request.max_redirects + 1):
            if gate is not None:
                gate(target.host, target.port)
            response, location = await self._once(request, target)
            if response.status not in REDIRECTS or location is None or request.max_redirects == 0:
                return response
            if followed < request.max_redirects:
                request, target = _redirected(request, target, response.status, location)
        raise Unavailable(f"{target.origin} redirects more than {request.max_redirects} times", code="redirects")

    async def _once(self, request: OutboundRequest, target: Target) -> tuple[OutboundResponse, str | None]:
        """One hop, and where it redirects to."""
        begun = time.monotonic()
        unpacks = "accept-encoding" not in request.headers
        sent = httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
            headers=_wire_headers(request, target),
            content=request.body,
        )
        response = await self._connections().handle_async_request(sent)
        try:
            headers = tuple((name.decode("latin-1").lower(), _text(value)) for name, value in response.headers)
            location = next((value for name, value in headers if name == "location"), None)
            gzip = unpacks and any(
                name == "content-encoding" and value.lower() in ("gzip", "x-gzip") for name, value in headers
            )
            body = await self._body(request, target, response, headers, gzip=gzip)
        finally:
            await response.aclose()
        if gzip:
            headers = tuple(pair for pair in headers if pair[0] not in ("content-encoding", "content-length"))
        log.debug(
            "egress.sent",
            host=target.host,
            port=target.port,
            method=request.method,
            status=response.status,
            bytes=len(body),
            ms=round((time.monotonic() - begun) * 1000, 1),
        )
        return OutboundResponse(response.status, headers, body, target.url), location

    @staticmethod
    async def _body(
        request: OutboundRequest,
        target: Target,
        response: httpcore2.Response,
        headers: tuple[tuple[str, str], ...],
        *,
        gzip: bool,
    ) -> bytes:
        limit = request.max_response_bytes
        if request.method != "HEAD" and any(
            name == "content-length" and value.isdigit() and int(value) > limit for name, value in headers
        ):
            raise PayloadTooLarge(
                f"the response of {target.origin} is larger than {limit} bytes", code="response_too_large"
            )
        return await read_body(response.aiter_stream(), limit, gzip=gzip, origin=target.origin)

    def _connections(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            if self._trust is None:
                self._trust = httpcore2.default_ssl_context()
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=self._trust,
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=self._kept,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=self._dialer,
            )
        return self._pool


def _wire_headers(request: OutboundRequest, target: Target) -> list[tuple[bytes, bytes]]:
    headers = {"host": target.authority, "accept": "*/*", "user-agent": f"metacore/{__version__}"}
    if "accept-encoding" not in request.headers:
        headers["accept-encoding"] = "gzip"
    headers |= request.headers
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        headers["content-length"] = str(len(request.body))
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


def _redirected(request: OutboundRequest, target: Target, status: int, location: str) -> tuple[OutboundRequest, Target]:
    """The request that the redirect asks for (RFC 9110, 15.4, as browsers read it).

    Raises:
        PermissionDenied: from https to http.
        InvalidInput: to what is no URL.
    """
    following = target.joined(location)
    if target.scheme == "https" and following.scheme != "https":
        raise PermissionDenied(f"{target.origin} redirects from https to http", code="insecure_redirect")
    headers, method, body = dict(request.headers), request.method, request.body
    if (status in (301, 302) and method == "POST") or (status == 303 and method != "HEAD"):
        method, body = "GET", b""
        headers = {name: value for name, value in headers.items() if not name.startswith("content-")}
    if following.origin != target.origin:
        headers = {name: value for name, value in headers.items() if name in HARMLESS}
    return replace(request, method=method, body=body, headers=headers), following


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _outcome(error: MetacoreError) -> str:
    if error.code == BLOCKED:
        return "blocked"
    if isinstance(error, InvalidInput):
        return "invalid"
    if isinstance(error, PayloadTooLarge):
        return "too_large"
    return "timeout" if error.code == "timeout" else "unavailable" if isinstance(error, Unavailable) else "refused"


def _reason(error: BaseException) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not accepted ({cause.verify_message})"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "no TLS connection could be made"
    if isinstance(error, httpcore2.ProtocolError):
        return "the answer is no valid HTTP"
    return "the connection broke"
