"""Signatures of calls between kernel and backends of addons (contract 15): making them, and their parts for verifying.

Pure: time and nonce come from the caller.
"""

from __future__ import annotations

import hashlib
import hmac

TIMESTAMP, NONCE, SIGNATURE = "X-Metacore-Timestamp", "X-Metacore-Nonce", "X-Metacore-Signature"
INSTALLATION, EVENT = "X-Metacore-Installation-ID", "X-Metacore-Event"
INVOCATION = "X-Metacore-Invocation-ID"
"""Ours beside those of the contract: the same when a call is tried again, so that a backend can tell."""

SCHEME = "sha256="


def backend_signature(secret: bytes, timestamp: int | str, method: str, path: str, nonce: str, body: bytes) -> str:
    """`sha256=<hex>` over `<ts>.<METHOD>.<path>.<nonce>.<sha256 of the body in hex>`. `timestamp` is in Unix seconds,
    `path` as it stands in the request line, without the query."""
    text = f"{timestamp}.{method}.{path}.{nonce}.{hashlib.sha256(body).hexdigest()}"
    return SCHEME + hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
