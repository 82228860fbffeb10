"""The judge of addresses: which of them a request may reach. Pure; nothing here resolves or connects.

IPv6 is judged by what is allowed (global unicast, 2000::/3, without its special blocks), IPv4 by what is not. The
blocks are those of the IANA special-purpose address registries (RFC 6890 and its updates) that are not globally
reachable, and some that are but lead to translators or belong to a cloud's own machinery.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, DigitalOcean, Oracle and others
        "169.254.170.2",  # task credentials of AWS ECS
        "169.254.170.23",  # pod identities of AWS EKS
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # pod identities of AWS EKS over IPv6
        "fd20:ce::254",  # Google over IPv6
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's host agent, at a public address
    )
)
"""Where clouds hand out credentials: no list of the administrator opens these."""

_BLOCKED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, also addresses of pods in some clouds
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The well-known prefix of RFC 6052, by which an IPv6-only network reaches IPv4: the address within is judged."""


def canonical(text: str) -> Address:
    """An address as `getaddrinfo` gives it. A zone is dropped; one that holds an IPv4 address becomes that address.

    Raises:
        ValueError: no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and (address in _MAPPED or address in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether anybody in the Internet could be there: not loopback, private, link-local, unique-local, shared,
    multicast, reserved, unspecified, a translator's or a cloud's own."""
    if address in METADATA:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_V4)
    if address in _MAPPED or address in _NAT64:
        return is_public(canonical(str(address)))
    return address in _GLOBAL_V6 and not any(address in network for network in _BLOCKED_V6)


@dataclass(frozen=True, slots=True)
class Opening:
    """One entry of the administrator's list: a network or a host name, at one port or (None) at every port."""

    network: Network | None
    host: str
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Opening:
        """`10.1.0.0/16`, `10.1.2.3:8443`, `fd00::/8`, `[fd00::1]:443` or `minio.storage:9000`.

        Raises:
            ValueError: none of these; the message names the entry.
        """
        text = entry.strip().lower()
        if not text.startswith("[") and (text.count(":") > 1 or ":" not in text):
            host, port = text, ""
        else:
            host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        number = int(port) if port.isascii() and port.isdigit() else None
        if port and not (number and number <= 65_535):
            raise ValueError(f"{entry!r}: {port!r} is no port")
        try:
            network = ipaddress.ip_network(host.strip("[]"))
        except ValueError as error:
            if "/" in host or ":" in host or not host:
                raise ValueError(f"{entry!r} is no network: {error}") from None
            if number is None:
                raise ValueError(f"{entry!r}: a host name needs a port, as in {host}:443") from None
            return cls(None, host.rstrip("."), number)
        if network.prefixlen == 0:
            raise ValueError(f"{entry!r} would open every address")
        return cls(network, "", number)

    def admits(self, host: str, port: int, address: Address) -> bool:
        if self.port not in (None, port):
            return False
        return address in self.network if self.network is not None else host == self.host


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Public addresses, without `denied` networks, and whatever `openings` or `vouched` (for host and port) admit."""

    openings: Sequence[Opening] = ()
    denied: Sequence[Network] = ()
    vouched: Callable[[str, int], bool] | None = None

    def admits(self, host: str, port: int, address: Address) -> bool:
        """Whether `host`, which resolved to `address` (canonical), may be connected to at `port`."""
        if address in METADATA or any(address in network for network in self.denied):
            return False
        return (
            is_public(address)
            or any(opening.admits(host, port, address) for opening in self.openings)
            or (self.vouched is not None and self.vouched(host, port))
        )
