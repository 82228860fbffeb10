"""An API server in memory: objects by path, with the conflicts of optimistic locking. Kinds are not checked."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from metacore.errors import Conflict, MetacoreError, NotFound
from metacore_operator.api_server import ApiServer, Document


class ObjectsInMemory(ApiServer):
    """`failing` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.objects: dict[str, Document] = {}
        self.failing: MetacoreError | None = None
        self.calls: list[tuple[str, str]] = []
        self._versions = itertools.count(1)
        self._applied: dict[tuple[str, str], Document] = {}

    async def close(self) -> None:
        return None

    def put(self, path: str, document: Mapping[str, Any]) -> None:
        stored = copy.deepcopy(dict(document))
        stored["metadata"] = {**stored.get("metadata", {}), "resourceVersion": str(next(self._versions))}
        self.objects[path] = stored

    async def get(self, path: str) -> Document:
        self._called("GET", path)
        if "?labelSelector=" in path:
            folder, _, query = path.partition("?")
            items = [item for name, item in self.objects.items() if name.startswith(f"{folder}/")]
            for condition in ",".join(parse_qs(query).get("fieldSelector", ())).split(","):
                field, _, value = condition.partition("!=")
                items = [item for item in items if not field or _field(item, field) != value]
            return {"items": copy.deepcopy(items)}
        if path not in self.objects:
            raise NotFound(f"{path} not found")
        return copy.deepcopy(self.objects[path])

    async def create(self, path: str, body: Mapping[str, Any]) -> Document:
        self._called("POST", path)
        whole = f"{path}/{body['metadata']['name']}"
        if whole in self.objects:
            raise Conflict(f"{whole} already exists")
        self.put(whole, body)
        return copy.deepcopy(self.objects[whole])

    async def replace(self, path: str, body: Mapping[str, Any]) -> Document:
        self._called("PUT", path)
        if path not in self.objects:
            raise NotFound(f"{path} not found")
        if self.objects[path]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(f"{path} was changed")
        self.put(path, body)
        return copy.deepcopy(self.objects[path])

    async def patch(self, path: str, body: Mapping[str, Any]) -> Document:
        self._called("PATCH", path)
        target = path.removesuffix("/status")
        if target not in self.objects:
            raise NotFound(f"{target} not found")
        wanted = body.get("metadata", {}).get("uid")
        if wanted is not None and self.objects[target]["metadata"].get("uid") != wanted:
            raise Conflict("the uid in the precondition differs")
        document = copy.deepcopy(self.objects[target])
        document.update({key: copy.deepcopy(value) for key, value in body.items() if key != "metadata"})
        if annotations := body.get("metadata", {}).get("annotations"):
            document["metadata"].setdefault("annotations", {}).update(annotations)
        self.put(target, document)
        return copy.deepcopy(self.objects[target])

    async def apply(self, path: str, body: Mapping[str, Any], manager: str) -> Document:
        """What `manager` named at its last apply and does not name now goes away, as in the real thing."""
        self._called("APPLY", path)
        if path not in self.objects or self.objects[path]["metadata"].get("uid") != body["metadata"].get("uid"):
            raise Conflict("uid mismatch")
        document = copy.deepcopy(self.objects[path])
        _take_away(document, self._applied.get((path, manager), {}), body)
        _merge(document, body)
        self._applied[path, manager] = copy.deepcopy(dict(body))
        self.put(path, document)
        return copy.deepcopy(self.objects[path])

    def _called(self, method: str, path: str) -> None:
        self.calls.append((method, path))
        if self.failing is not None:
            raise self.failing


def _take_away(document: Document, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in before.items():
        if isinstance(value, Mapping):
            _take_away(document[key], value, now.get(key) or {})
        elif key not in now:
            del document[key]


def _merge(document: Document, body: Mapping[str, Any]) -> None:
    for key, value in body.items():
        if isinstance(value, Mapping):
            _merge(document.setdefault(key, {}), value)
        else:
            document[key] = copy.deepcopy(value)


def _field(document: Document, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) or {}
    return document
