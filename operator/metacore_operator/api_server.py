"""The little of the Kubernetes API that the operator needs beside what kopf delivers, as decoded JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import aiohttp
import orjson
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import ConfigException

from metacore.errors import Conflict, Misconfigured, NotFound, PermissionDenied, Unavailable

Document = dict[str, Any]

REQUEST_SECONDS = 15.0
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
JSON = "application/json"


class ApiServer:
    """Every call raises NotFound, Conflict (409), PermissionDenied (401, 403), or Unavailable for everything else."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """With this pod's service account, or the kubeconfig of KUBECONFIG or ~/.kube/config. Nothing is asked yet.

        Raises:
            Misconfigured: there is neither.
        """
        configuration = client.Configuration()
        try:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except ConfigException:
                await config.load_kube_config(client_configuration=configuration, persist_config=False)
        except (ConfigException, OSError) as error:
            raise Misconfigured(f"no way to a cluster: no service account, and no kubeconfig ({error})") from error
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        await self._api.close()

    async def get(self, path: str) -> Document:
        return await self._call("GET", path)

    async def create(self, path: str, body: Mapping[str, Any]) -> Document:
        return await self._call("POST", path, body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> Document:
        return await self._call("PUT", path, body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Document:
        """A JSON merge patch: lists are replaced as a whole."""
        return await self._call("PATCH", path, body, MERGE_PATCH)

    async def apply(self, path: str, body: Mapping[str, Any], manager: str) -> Document:
        """A server-side apply: `manager` owns exactly what `body` names, and takes it from others."""
        return await self._call("PATCH", f"{path}?fieldManager={manager}&force=true", body, APPLY_PATCH)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = JSON
    ) -> Document:
        headers = {"Accept": JSON, "Content-Type": content_type}
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                prepared = await self._api.param_serialize(
                    method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
                )
                response = await self._api.call_api(*prepared)
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the API server does not answer: {type(error).__name__}") from error
        except ApiException as error:
            raise _refusal(int(error.status or 0), error.body) from error
        if response.status >= 400:
            raise _refusal(response.status, content)
        document: Document = orjson.loads(content)
        return document


def _refusal(status: int, body: Any) -> Exception:
    message = _words(body) or f"the API server answered {status}"
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status in (401, 403):
        return PermissionDenied(message)
    return Unavailable(message)


def _words(body: Any) -> str:
    """The message of a Kubernetes Status object."""
    try:
        return str(orjson.loads(body)["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
