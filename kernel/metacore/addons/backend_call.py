"""Signed HTTP calls to the backends of addons: what a `webhook` handler is, and what a tool with an endpoint is."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from metacore.addons import signatures
from metacore.addons.egress import AddonEgress
from metacore.addons.guest_context import GuestContext
from metacore.addons.installation_secrets import InstallationSecrets
from metacore.egress.outbound import OutboundRequest, OutboundResponse
from metacore.egress.targets import parse_target
from metacore.errors import Refused, Unavailable
from metacore.manifest.model import Manifest

MAX_REPLY_BYTES: Final = 4 * 1_048_576
"""As the reply of a guest."""

DEFAULT_SECONDS: Final = 10.0
"""What `backend.timeout_ms` defaults to."""


@dataclass(frozen=True, slots=True)
class BackendCall:
    """One call. `url` is absolute, or a path below the manifest's `backend.url`, or '' for that URL itself. `body` is
    sent as JSON. `event` names what happened, for the backend to dispatch on; `id` stays the same when it is tried
    again. `timeout` is the whole time in seconds."""

    manifest: Manifest
    url: str = ""
    method: str = "POST"
    body: bytes = b""
    event: str = ""
    timeout: float = DEFAULT_SECONDS
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackendReply:
    """`value` is the JSON of the reply, None for an empty one."""

    status: int
    value: Any

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class BackendCaller:
    def __init__(self, egress: AddonEgress, installation_secrets: InstallationSecrets) -> None:
        self._egress = egress
        self._secrets = installation_secrets

    async def call(self, who: GuestContext, call: BackendCall) -> BackendReply:
        """Send `call` for the addon and organization of `who`, signed with the secret of that installation. Redirects
        are not followed: a signature is for one place.

        Raises:
            Refused: `no_backend`: a path, and the manifest has no absolute `backend.url`.
            NotWired: the secret cannot be opened (see `InstallationSecrets.of`).
            PermissionDenied: `forbidden`, `blocked_address`.
            Unavailable: no connection, no answer in time, or a success whose body is no JSON (`invalid_reply`).
        """
        response = await self._send(who, call)
        try:
            value = orjson.loads(response.body) if response.body.strip() else None
        except orjson.JSONDecodeError:
            if 200 <= response.status < 300:
                raise Unavailable(
                    f"the backend of {who.addon_key!r} answered {response.status} with what is no JSON",
                    code="invalid_reply",
                ) from None
            value = None
        return BackendReply(response.status, value)

    async def _send(self, who: GuestContext, call: BackendCall) -> OutboundResponse:
        url = backend_url(call.manifest, call.url)
        installation = await self._secrets.of(who.organization_id, who.addon_key)
        timestamp, nonce = int(time.time()), secrets.token_hex(16)
        path = parse_target(url).path.partition("?")[0]
        signature = signatures.backend_signature(installation.secret, timestamp, call.method, path, nonce, call.body)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            **call.headers,
            signatures.TIMESTAMP: str(timestamp),
            signatures.NONCE: nonce,
            signatures.SIGNATURE: signature,
            signatures.INSTALLATION: str(installation.installation_id),
            signatures.EVENT: call.event,
            signatures.INVOCATION: str(call.id),
        }
        request = OutboundRequest(
            call.method,
            url,
            headers,
            call.body,
            timeout=call.timeout,
            max_response_bytes=MAX_REPLY_BYTES,
            max_redirects=0,
        )
        backend = call.manifest.backend
        own = backend.url if backend is not None and "://" in backend.url else ""
        return await self._egress.send(who, request, own=own)


def backend_url(manifest: Manifest, url: str) -> str:
    """The absolute URL of a handler's `url`: a path is appended to the manifest's `backend.url`.

    Raises:
        Refused: `no_backend`.
    """
    if "://" in url:
        return url
    base = manifest.backend.url if manifest.backend is not None else ""
    if "://" not in base:
        raise Refused(
            f"addon {manifest.key!r} declares no absolute backend.url to call {url[:200]!r} at",
            code="no_backend",
        )
    return base.rstrip("/") + url if url else base
