"""The secrets of an Addon's installations in a Secret beside it, which goes when the Addon does."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import Any

from metacore.errors import Conflict, MetacoreError, NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.api_server import ApiServer
from metacore_operator.resources.addon import API_VERSION, KIND, Addon
from metacore_operator.steps.context import KeptSecrets, SecretStore

SUFFIX = "-installations"
TYPE = "metacore.dev/installations"
OWNER = "metacore.dev/addon"
ROTATION = "metacore.dev/rotation"
MANAGED_BY = {"app.kubernetes.io/managed-by": "metacore-operator"}


class ClusterSecrets(SecretStore):
    """`data` maps the id of an organization to its installation's secret in hex. A Secret of that name that this very
    Addon does not own is neither read nor touched.
    """

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def read(self, addon: Addon) -> KeptSecrets:
        document = await self._get(addon)
        if document is None:
            return KeptSecrets()
        values = {}
        for name, value in (document.get("data") or {}).items():
            try:
                values[uuid.UUID(name)] = bytes.fromhex(base64.b64decode(value, validate=True).decode("ascii"))
            except (ValueError, binascii.Error, UnicodeDecodeError):
                continue  # Somebody put it there; it is left alone.
        annotations = document["metadata"].get("annotations") or {}
        return KeptSecrets(values, str(annotations.get(ROTATION, "")))

    async def write(self, addon: Addon, kept: KeptSecrets) -> None:
        what = _name(addon)
        try:
            before = await self._get(addon)
        except PermissionDenied as error:
            raise Unavailable(error.message) from error
        data: dict[str, str | None] = {
            str(organization): base64.b64encode(value.hex().encode()).decode()
            for organization, value in kept.values.items()
        }
        annotations = {ROTATION: kept.rotation} if kept.rotation else {}
        try:
            if before is None:
                await self._api.create(_path(addon), _new(addon, data, annotations))
                return
            gone = {name: None for name in before.get("data") or {} if _is_id(name) and name not in data}
            # With the version that was read, so that what somebody else wrote meanwhile is not lost.
            metadata = {"annotations": annotations, "resourceVersion": before["metadata"]["resourceVersion"]}
            await self._api.patch(f"{_path(addon)}/{what}", {"metadata": metadata, "data": {**data, **gone}})
        except Conflict as error:
            raise Unavailable(f"Secret {what!r} was changed meanwhile") from error
        except PermissionDenied as error:
            raise Unavailable(f"the operator may not write Secret {what!r}: {error.message}") from error

    async def _get(self, addon: Addon) -> Mapping[str, Any] | None:
        what = _name(addon)
        try:
            document = await self._api.get(f"{_path(addon)}/{what}")
        except NotFound:
            return None
        except PermissionDenied as error:
            raise PermissionDenied(f"the operator may not read Secret {what!r}") from error
        except MetacoreError as error:
            raise Unavailable(f"Secret {what!r} cannot be read: {error.message}") from error
        owners = {owner.get("uid") for owner in document["metadata"].get("ownerReferences") or ()}
        if addon.metadata.uid not in owners:
            raise Refused(
                f"Secret {what!r} exists and is not this Addon's: rename the Addon or remove it", code="taken"
            )
        return document


def _new(addon: Addon, data: Mapping[str, str | None], annotations: Mapping[str, str]) -> dict[str, Any]:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": addon.metadata.name,
        "uid": addon.metadata.uid,
        "controller": True,
    }
    metadata = {
        "name": _name(addon),
        "namespace": addon.metadata.namespace,
        "labels": {**MANAGED_BY, OWNER: addon.metadata.name},
        "annotations": dict(annotations),
        "ownerReferences": [owner],
    }
    return {"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": metadata, "data": dict(data)}


def _name(addon: Addon) -> str:
    return addon.metadata.name + SUFFIX


def _path(addon: Addon) -> str:
    return f"/api/v1/namespaces/{addon.metadata.namespace}/secrets"


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
