"""What an Addon may refer to in its namespace. The operator is no deputy: only what is labelled for this Addon."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from metacore.errors import MetacoreError, NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.api_server import ApiServer
from metacore_operator.resources.addon import Addon

ALLOW = "metacore.dev/allow"


class References:
    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def config_map(self, addon: Addon, name: str) -> Mapping[str, bytes]:
        """Every entry of a ConfigMap.

        Raises:
            Unavailable: it is not there now.
            Refused: it may not be read for this Addon, or holds what is no base64.
        """
        document = await self._get(addon, "configmaps", "ConfigMap", name)
        plain = {key: str(value).encode() for key, value in (document.get("data") or {}).items()}
        return plain | _decoded(document.get("binaryData") or {}, f"ConfigMap {name!r}")

    async def secret(self, addon: Addon, name: str) -> Mapping[str, bytes]:
        """Every entry of a Secret; raises as `config_map` does."""
        document = await self._get(addon, "secrets", "Secret", name)
        return _decoded(document.get("data") or {}, f"Secret {name!r}")

    async def _get(self, addon: Addon, plural: str, kind: str, name: str) -> Mapping[str, Any]:
        namespace = addon.metadata.namespace
        what = f"{kind} {name!r} in namespace {namespace!r}"
        if "/" in name or name in (".", ".."):
            raise Refused(f"{name!r} is no name of a {kind}", code="source_refused")
        try:
            document = await self._api.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}")
        except NotFound as error:
            raise Unavailable(f"there is no {what}") from error
        except PermissionDenied as error:
            raise Unavailable(f"the operator may not read {what}") from error
        except MetacoreError as error:
            raise Unavailable(f"{what} cannot be read: {error.message}") from error
        labels = document.get("metadata", {}).get("labels") or {}
        if labels.get(ALLOW) != addon.metadata.name:
            # Waiting and not stalled: whoever adds the label changes nothing that the operator watches.
            raise Unavailable(f"{what} lacks the label {ALLOW}: {addon.metadata.name}, so it may not be read")
        return document


def _decoded(entries: Mapping[str, str], what: str) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in entries.items()}
    except (binascii.Error, ValueError) as error:
        raise Refused(f"{what} holds what is no base64", code="source_refused") from error
