"""What of the release the API server holds: read by name, and of it only the mode and what is said of it is written."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import ValidationError

from metacore.errors import Conflict, NotFound
from metacore_operator.api_server import ApiServer, Document
from metacore_operator.resources.addon import API_VERSION
from metacore_operator.resources.mode_rollout import MODE_ROLLOUT_KIND, MODE_ROLLOUT_PLURAL, ModeRolloutStatus
from metacore_operator.rollout.record import ANNOTATION, MODE, Record, write_record
from metacore_operator.rollout.status import Told

FIELD_MANAGER = "metacore-mode"
"""Owns the annotations, and the pause of a canary; nobody who applies the chart names them, so nobody conflicts."""
COMPONENT = "metacore-operator"
LONGEST_EVENT = 1024
"""Characters of an Event's message that the API server takes."""


@dataclass(frozen=True, slots=True)
class Release:
    namespace: str
    config_map: str
    deployment: str


class Objects:
    """Calls raise MetacoreError when the API server could not do it now."""

    def __init__(self, api: ApiServer, release: Release, identity: str) -> None:
        self._api = api
        self._identity = identity
        self.release = release
        self._core = f"/api/v1/namespaces/{release.namespace}"
        self._deployment = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{release.deployment}"
        self._rollouts = f"/apis/{API_VERSION}/namespaces/{release.namespace}/{MODE_ROLLOUT_PLURAL}"

    async def config_map(self) -> Document | None:
        return await self._found(f"{self._core}/configmaps/{self.release.config_map}")

    async def deployment(self) -> Document | None:
        return await self._found(self._deployment)

    async def pods(self, deployment: Document) -> Sequence[Document]:
        labels = deployment["spec"]["selector"].get("matchLabels") or {}
        selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        # An evicted pod stays as an object that has failed; another one took its place long ago.
        living = quote("status.phase!=Failed,status.phase!=Succeeded")
        listed = await self._api.get(f"{self._core}/pods?labelSelector={quote(selector)}&fieldSelector={living}")
        items: Sequence[Document] = listed["items"]
        return items

    async def stamp(self, deployment: Document, record: Record, *, paused: bool) -> Document | None:
        """Write the mode, what is remembered of it, and the pause, all in one patch; None when that Deployment is gone.

        What is left out of it, as the pause afterwards, goes away, unless another wants it, too.
        """
        template = {"metadata": {"annotations": {MODE: record.stamp}}} if record.stamp else {}
        spec: dict[str, Any] = {"template": template} if template else {}
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": self.release.deployment,
                # An apply would make an object that is gone; with the uid it is a conflict.
                "uid": deployment["metadata"]["uid"],
                "annotations": {ANNOTATION: write_record(record)},
            },
            "spec": {**spec, **({"paused": True} if paused else {})},
        }
        try:
            return await self._api.apply(self._deployment, body, FIELD_MANAGER)
        except (NotFound, Conflict):
            return None

    async def shown(self) -> ModeRolloutStatus | None:
        """The status that was shown last; None when there is no such object."""
        found = await self._found(f"{self._rollouts}/{self.release.deployment}")
        if found is None:
            return None
        try:
            return ModeRolloutStatus.model_validate_json(orjson.dumps(found.get("status") or {}))
        except ValidationError:
            # Another version wrote what this one does not know.
            return ModeRolloutStatus()

    async def show(self, deployment: Document, status: ModeRolloutStatus) -> None:
        path = f"{self._rollouts}/{self.release.deployment}"
        # There is no spec whose generation could be observed, and kubectl would wait for one that is named.
        without = {"conditions": {"__all__": {"observed_generation"}}}
        body = {"status": status.model_dump(mode="json", by_alias=True, exclude=without)}
        try:
            await self._api.patch(f"{path}/status", body)
        except NotFound:
            await self._api.create(self._rollouts, self._empty(deployment))
            await self._api.patch(f"{path}/status", body)

    async def tell(self, deployment: Document, config_map: Document | None, told: Told) -> None:
        """Post an Event on the Deployment and on the ConfigMap, where people look."""
        await self._post("apps/v1", "Deployment", deployment["metadata"], told)
        if config_map is not None:
            await self._post("v1", "ConfigMap", config_map["metadata"], told)

    def _empty(self, deployment: Document) -> Document:
        """It goes with the Deployment."""
        metadata = deployment["metadata"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
        return {
            "apiVersion": API_VERSION,
            "kind": MODE_ROLLOUT_KIND,
            "metadata": {"name": self.release.deployment, "ownerReferences": [owner]},
        }

    async def _found(self, path: str) -> Document | None:
        try:
            return await self._api.get(path)
        except NotFound:
            return None

    async def _post(self, version: str, kind: str, metadata: Mapping[str, Any], told: Told) -> None:
        now = datetime.datetime.now(datetime.UTC)
        reference = {"apiVersion": version, "kind": kind, "namespace": self.release.namespace}
        body = {
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": self.release.namespace},
            "involvedObject": {**reference, "name": metadata["name"], "uid": metadata["uid"]},
            "type": told.type,
            "reason": told.reason,
            "message": told.message[:LONGEST_EVENT],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._identity,
            "action": "RollMode",
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": 1,
        }
        await self._api.create(f"{self._core}/events", body)
