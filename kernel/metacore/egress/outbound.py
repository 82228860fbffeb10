"""A request that leaves, its response, and who carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

HostGate = Callable[[str, int], None]
"""Asked with host name (lower case, no brackets) and port before the first connection and before each redirect is
followed; it raises to stop the request."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """`timeout` is the whole time in seconds; a response body over `max_response_bytes` ends the request. `owner` is
    the addon that it is for: names of one owner are looked up two at a time; '' is the kernel itself."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float = 15.0
    max_response_bytes: int = 8 * 1_048_576
    max_redirects: int = 5
    owner: str = ""


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """`headers` in the order received, names in lower case. `url` is where the answer came from, after redirects."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    url: str


class Outbound(Protocol):
    async def send(self, request: OutboundRequest, *, gate: HostGate | None = None) -> OutboundResponse:
        """Any status is an answer.

        Raises:
            InvalidInput: a URL or header that cannot be sent.
            PermissionDenied: with the code `blocked_address`: a loopback, private, link-local, unique-local or
                metadata address; whatever `gate` raises.
            PayloadTooLarge: the response is larger than allowed.
            Unavailable: no connection, or no answer in time; `resolver_busy` when names of its owner get no answer.
        """
        ...
