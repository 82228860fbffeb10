"""Whether a delivery was signed with the secret that both sides know. Pure: the time comes from the caller.

Three ways are understood, told apart by their headers: Standard Webhooks (`webhook-id`, `webhook-timestamp`,
`webhook-signature`; `svix-…` alike), the kernel's own (contract 15), and `X-Hub-Signature-256`. The first two carry a
time and an id under the signature, so an old delivery is refused and a repeated one known.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from metacore.addons.signatures import SCHEME, backend_signature
from metacore.errors import Unauthenticated

TOLERANCE_SECONDS: Final = 300
"""How far a sender's clock may be off, as in the reference libraries of Standard Webhooks."""

MAX_ID: Final = 255
DELIVERY_HEADERS: Final = ("x-github-delivery", "x-gitea-delivery", "x-delivery-id", "webhook-id", "idempotency-key")
"""Where senders that do not sign their ids put them."""

_PREFIX: Final = "whsec_"


def verify(secret: str, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The id of a genuine delivery, '' when the sender gives none. `headers` by names in lower case, `now` in Unix
    seconds, `path` as it was requested.

    Raises:
        Unauthenticated: no signature, a wrong one, or one that is too old or from the future.
    """
    keys = _keys(secret)
    for prefix in ("webhook", "svix"):
        if f"{prefix}-signature" in headers:
            identifier, timestamp = headers.get(f"{prefix}-id", ""), headers.get(f"{prefix}-timestamp", "")
            return _standard(keys, identifier, timestamp, headers[f"{prefix}-signature"], body, now)
    if "x-metacore-signature" in headers:
        return _own(keys, method, path, headers, body, now)
    if "x-hub-signature-256" in headers:
        given = headers["x-hub-signature-256"]
        _one_of(given, [SCHEME + hmac.new(key, body, hashlib.sha256).hexdigest() for key in keys])
        return delivery_id(headers)
    raise Unauthenticated("the delivery carries no signature", code="unsigned")


def delivery_id(headers: Mapping[str, str]) -> str:
    """The id that an unsigned header gives, '' when there is none."""
    return next((_bounded(headers[name]) for name in DELIVERY_HEADERS if headers.get(name)), "")


def _standard(keys: list[bytes], identifier: str, timestamp: str, given: str, body: bytes, now: float) -> str:
    if not identifier:
        raise Unauthenticated("the delivery has a signature and no id", code="unsigned")
    _check_time(timestamp, now)
    signed = f"{identifier}.{timestamp}.".encode() + body
    made = ["v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    # A sender that rotates its secret gives several signatures.
    for one in given.split(" ")[:10]:
        if any(_same(one, expected) for expected in made):
            return _bounded(identifier)
    raise Unauthenticated("the signature does not fit", code="bad_signature")


def _own(keys: list[bytes], method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    timestamp, nonce = headers.get("x-metacore-timestamp", ""), headers.get("x-metacore-nonce", "")
    if not nonce:
        raise Unauthenticated("the delivery has a signature and no nonce", code="unsigned")
    _check_time(timestamp, now)
    given = headers["x-metacore-signature"]
    _one_of(given, [backend_signature(key, timestamp, method, path, nonce, body) for key in keys])
    return _bounded(nonce)


def _check_time(timestamp: str, now: float) -> None:
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise Unauthenticated("the delivery's timestamp is no Unix time", code="bad_timestamp")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Unauthenticated("the delivery's timestamp is too far from now", code="bad_timestamp")


def _one_of(given: str, expected: list[str]) -> None:
    if not any(_same(given, one) for one in expected):
        raise Unauthenticated("the signature does not fit", code="bad_signature")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _keys(secret: str) -> list[bytes]:
    """The keys that a secret may stand for: its own characters, what base64 after `whsec_` says, 32 bytes in hex."""
    keys = [secret.encode()]
    if secret.startswith(_PREFIX):
        with contextlib.suppress(ValueError):
            keys.append(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
    if len(secret) == 64:
        with contextlib.suppress(ValueError):
            keys.append(bytes.fromhex(secret))
    return keys


def _bounded(identifier: str) -> str:
    """An id as it is kept: a long one by its hash."""
    if len(identifier) <= MAX_ID and identifier.isprintable():
        return identifier
    return "sha256:" + hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
