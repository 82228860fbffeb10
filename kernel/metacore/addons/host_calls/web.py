"""`http_fetch` and `http_request`: requests of guests, through the broker and behind their capability."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from metacore.addons.egress import AddonEgress
from metacore.addons.guest_context import GuestCall
from metacore.addons.host_calls.parts import Answer
from metacore.egress.outbound import OutboundRequest, OutboundResponse
from metacore.errors import InvalidInput
from metacore.version import __version__
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import MIB
from metacore.wasm.ports import HostError, HostReply

MOST_SECONDS: Final = 30.0
"""For one request, also when the guest has more time left."""

MARGIN_SECONDS: Final = 0.05
"""A request ends this much before the guest does, so that the guest hears of it."""

MAX_FETCH_BYTES: Final = 8 * MIB
"""What the answer of a host function may have."""

MAX_REQUEST_BYTES: Final = 5 * MIB
"""The same, in base64 and within an envelope."""

KEYS: Final = frozenset({"url", "method", "headers", "body", "encoding", "timeout_ms"})


class GuestWeb:
    def __init__(self, egress: AddonEgress) -> None:
        self._egress = egress

    async def http_fetch(self, guest: GuestCall, url: str, method: str, body: bytes) -> bytes | HostError:
        response = await self._send(guest, OutboundRequest(method, url, {}, body, max_response_bytes=MAX_FETCH_BYTES))
        return response.body

    async def http_request(self, guest: GuestCall, request: dict[str, Any]) -> Answer:
        try:
            outbound = _read(request)
        except InvalidInput as error:
            return HostError(HostCode.ARG_DECODE, error.message)
        response = await self._send(guest, outbound)
        return HostReply(_envelope(response))

    async def _send(self, guest: GuestCall, request: OutboundRequest) -> OutboundResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "user-agent"}
        given = next((value for name, value in request.headers.items() if name.lower() == "user-agent"), "")
        headers["User-Agent"] = given or f"metacore/{__version__} addon/{guest.context.addon_key}"
        seconds = min(request.timeout, MOST_SECONDS, max(0.0, guest.call.remaining() - MARGIN_SECONDS))
        return await self._egress.send(
            guest.context,
            OutboundRequest(
                request.method,
                request.url,
                headers,
                request.body,
                timeout=seconds,
                max_response_bytes=request.max_response_bytes,
            ),
        )


def _read(request: Mapping[str, Any]) -> OutboundRequest:
    """The request that the guest described.

    Raises:
        InvalidInput: names the key that is wrong.
    """
    for key in request:
        if key not in KEYS:
            raise InvalidInput(f"{key[:64]!r} is none of {', '.join(sorted(KEYS))}")
    url, method = request.get("url"), request.get("method", "")
    if not isinstance(url, str) or not isinstance(method, str | None):
        raise InvalidInput("url must be a string, and method one, too")
    headers = request.get("headers") or {}
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        raise InvalidInput("headers must be an object of strings")
    timeout = request.get("timeout_ms")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise InvalidInput("timeout_ms must be a number above 0")
    body, made = _body(request.get("body"), request.get("encoding", ""))
    given = {name.lower() for name in headers}
    return OutboundRequest(
        method or "",
        url,
        dict(headers) | ({} if "content-type" in given or not made else {"Content-Type": made}),
        body,
        timeout=MOST_SECONDS if timeout is None else timeout / 1000,
        max_response_bytes=MAX_REQUEST_BYTES,
    )


def _body(body: Any, encoding: Any) -> tuple[bytes, str]:
    """The bytes of a body, and the content type that goes with them."""
    if encoding not in ("", "text", "base64", None):
        raise InvalidInput("encoding must be text or base64")
    if body is None:
        return b"", ""
    if not isinstance(body, str):
        return orjson.dumps(body), "application/json"
    if encoding != "base64":
        return body.encode(), "text/plain; charset=utf-8"
    try:
        return base64.b64decode(body, validate=True), "application/octet-stream"
    except (binascii.Error, ValueError):
        raise InvalidInput("body is not base64") from None


def _envelope(response: OutboundResponse) -> dict[str, Any]:
    headers: dict[str, str] = {}
    for name, value in response.headers:
        # Cookies hold commas, so they alone stand on lines of their own (RFC 9110, 5.3).
        separator = "\n" if name == "set-cookie" else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    try:
        body, encoding = response.body.decode(), "text"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(response.body).decode(), "base64"
    return {"status": response.status, "url": response.url, "headers": headers, "body": body, "encoding": encoding}
