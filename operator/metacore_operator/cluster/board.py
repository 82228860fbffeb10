"""What the cluster is told of an Addon: its status subresource, and an Event for each transition."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from metacore.errors import Conflict, MetacoreError, NotFound
from metacore.logs import get_logger
from metacore_operator.api_server import ApiServer
from metacore_operator.conditions import Event
from metacore_operator.resources.addon import API_VERSION, KIND, Metadata
from metacore_operator.resources.status import AddonStatus

log = get_logger(__name__)

COMPONENT = "metacore-operator"
NUDGED = "metacore.dev/nudged"
LONGEST_EVENT = 1024
"""Characters of an Event's message that the API server takes."""


class Board:
    def __init__(self, api: ApiServer, identity: str) -> None:
        self._api = api
        self._identity = identity

    async def nudge(self, metadata: Metadata) -> bool:
        """Change an annotation, so that all who watch this object hear of it; false when it is gone.

        Raises:
            MetacoreError: the API server could not take it now.
        """
        path = f"/apis/{API_VERSION}/namespaces/{metadata.namespace}/addons/{metadata.name}"
        now = datetime.datetime.now(datetime.UTC).isoformat()
        try:
            await self._api.patch(path, {"metadata": {"uid": metadata.uid, "annotations": {NUDGED: now}}})
        except (NotFound, Conflict):
            return False
        return True

    async def show(self, metadata: Metadata, status: AddonStatus) -> bool:
        """Write `status`; false when this very object is gone.

        Raises:
            MetacoreError: the API server could not take it now.
        """
        path = f"/apis/{API_VERSION}/namespaces/{metadata.namespace}/addons/{metadata.name}/status"
        # With the uid, so that another object of the same name never gets this one's status.
        body = {
            "metadata": {"uid": metadata.uid},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        try:
            await self._api.patch(path, body)
        except (NotFound, Conflict):
            return False
        return True

    async def tell(self, metadata: Metadata, event: Event) -> None:
        """Post an Event. One that cannot be posted is logged: the status holds what counts."""
        level = log.warning if event.type == "Warning" else log.info
        level(
            "addon.event", addon=f"{metadata.namespace}/{metadata.name}", reason=event.reason.value, told=event.message
        )
        now = datetime.datetime.now(datetime.UTC)
        body: dict[str, Any] = {
            "metadata": {"name": f"{metadata.name}.{uuid.uuid4().hex[:16]}", "namespace": metadata.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
            },
            "type": event.type,
            "reason": event.reason.value,
            "message": event.message[:LONGEST_EVENT],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._identity,
            "action": "Reconcile",
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": 1,
        }
        try:
            await self._api.create(f"/api/v1/namespaces/{metadata.namespace}/events", body)
        except MetacoreError as error:
            log.warning("addon.event_lost", addon=f"{metadata.namespace}/{metadata.name}", error=error.message)
