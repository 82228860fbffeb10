"""Connecting: the name is resolved once, every address is judged, and a judged address is what is dialled.

The HTTP library opens its connections through `Dialer`, so whatever it asks for by name goes through the judge, and TLS
still verifies the certificate of the name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import h11
import httpcore2

from metacore.egress.addresses import Address, AddressRules, canonical
from metacore.egress.resolving import Resolver
from metacore.errors import Misconfigured, PermissionDenied, Unavailable
from metacore.logs import get_logger

log = get_logger(__name__)

MOST_ADDRESSES: Final = 4
"""Addresses that are tried one after another; all of them are judged."""

CONNECT_SECONDS: Final = 5.0
"""For one address, so that a dead one leaves time for the next."""

MAX_PROXY_REPLY: Final = 16 * 1024

BLOCKED: Final = "blocked_address"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that makes tunnels. `authorization` is the value of Proxy-Authorization, '' for none."""

    host: str
    port: int
    authorization: str = ""

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """`http://[user:password@]host[:port]`; the port defaults to 3128.

        Raises:
            Misconfigured: no such URL. The message does not hold it: it may hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 3128
        except ValueError:
            raise Misconfigured("the egress proxy is no URL such as http://proxy.example.com:3128") from None
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise Misconfigured("the egress proxy must be http://host:port, reached without TLS")
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = "" if login == ":" else "Basic " + base64.b64encode(login.encode()).decode()
        return cls(parts.hostname, port, basic)


class Dialer(httpcore2.AsyncNetworkBackend):
    """Opens connections to addresses that `rules` admit, through `proxy` when there is one."""

    def __init__(self, rules: AddressRules, resolve: Resolver, proxy: Proxy | None = None) -> None:
        self._rules = rules
        self._resolve = resolve
        self._proxy = proxy
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        """A connection to an address of `host` that may be reached. The caller bounds the whole time.

        Raises:
            PermissionDenied: `blocked_address`; one bad address is enough, so that an answer that mixes good and bad
                ones does not get a second chance.
            Unavailable: the name is unknown, or nobody answers at any address; `resolver_busy` when others of the same
                owner are being looked up and the name server is slow.
        """
        for address in (await self.admitted(host, port))[:MOST_ADDRESSES]:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._connect(str(address), port)
        raise Unavailable(f"no connection to {place(host, port)}")

    async def admitted(self, host: str, port: int) -> list[Address]:
        """Every address of `host`, all of them admitted."""
        try:
            ipaddress.ip_address(host)
            texts: Sequence[str] = [host]
        except ValueError:
            try:
                texts = await self._resolve(host, port)
            except (OSError, UnicodeError):
                texts = ()
        addresses = list(dict.fromkeys(canonical(text) for text in texts))
        if not addresses:
            raise Unavailable(f"host {host!r} cannot be resolved")
        for address in addresses:
            if not self._rules.admits(host, port, address):
                # The caller may not learn what a name inside the cluster resolves to; the administrator may.
                log.warning("egress.blocked", host=host, port=port, address=str(address))
                raise PermissionDenied(f"{place(host, port)} is at an address that may not be reached", code=BLOCKED)
        return addresses

    async def _connect(self, address: str, port: int) -> httpcore2.AsyncNetworkStream:
        if self._proxy is None:
            return await self._inner.connect_tcp(address, port, timeout=CONNECT_SECONDS)
        stream = await self._inner.connect_tcp(self._proxy.host, self._proxy.port, timeout=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _tunnel(stream, self._proxy, address, port)
        except TimeoutError:
            await stream.aclose()
            raise Unavailable("the egress proxy makes no tunnel in time") from None
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise PermissionDenied("sockets of this machine may not be reached", code=BLOCKED)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def place(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _tunnel(stream: httpcore2.AsyncNetworkStream, proxy: Proxy, address: str, port: int) -> None:
    """CONNECT (RFC 9110, 9.3.6) to an address, never to a name: the proxy must not resolve it anew."""
    authority = place(address, port)
    headers = [("Host", authority)] + ([("Proxy-Authorization", proxy.authorization)] if proxy.authorization else [])
    talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_PROXY_REPLY)
    try:
        await stream.write(talk.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b"")
        await stream.write(talk.send(h11.EndOfMessage()) or b"")
        while (event := talk.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                talk.receive_data(await stream.read(MAX_PROXY_REPLY))
    except (h11.ProtocolError, httpcore2.NetworkError):
        raise Unavailable("the egress proxy does not speak HTTP") from None
    if not isinstance(event, h11.Response):
        raise Unavailable("the egress proxy closed the connection")
    if not 200 <= event.status_code < 300:
        raise Unavailable(f"the egress proxy answered {event.status_code}")
    if talk.trailing_data[0]:
        raise Unavailable("the egress proxy sent more than its answer")
