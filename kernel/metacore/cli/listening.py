"""The socket that a kernel listens on, taken before anything else so that a port in use is the first thing told."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_network

from metacore.errors import Misconfigured

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the system choose one.

    Raises:
        Misconfigured: the port is taken or may not be used, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise Misconfigured(f"cannot listen on host {host!r}: {error.strerror or error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is in use: stop what listens there or choose another port"
            raise Misconfigured(message, code="port_in_use") from error
        raise Misconfigured(f"cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def adopt(descriptor: int) -> socket.socket:
    """The listening socket that a parent process handed over.

    Raises:
        Misconfigured: the descriptor is no socket.
    """
    try:
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
    except OSError as error:
        raise Misconfigured(f"file descriptor {descriptor} is no socket: {error.strerror}") from error
    return listener


def trusted_sources(networks: Iterable[str]) -> list[str]:
    """Addresses and networks as a server sees them come: on a socket for both families, IPv4 comes as mapped IPv6."""
    sources: list[str] = []
    for text in networks:
        network = ip_network(text)
        sources.append(str(network))
        if network.version == 4:
            sources.append(f"::ffff:{network.network_address}/{network.prefixlen + 96}")
    return sources


def shown_address(listener: socket.socket) -> str:
    """`http://host:port` as a browser on this machine would write it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to.
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
