"""An API server on a port of its own: discovery, and Addons that are listed, watched and patched as kopf does it.

`refused` maps a namespace to the status with which its lists and watches are answered, `unwritable` names objects whose
patches are forbidden. Without `defined` there is no CustomResourceDefinition of Addon; `behind` answers so many of
kopf's looks at the kinds as an API server that has not heard of it yet.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from metacore_operator.api_server import ApiServer
from metacore_operator.resources.addon import API_VERSION, GROUP, KIND, PLURAL, VERSION

VERBS = ["get", "list", "watch", "patch"]
Document = dict[str, Any]


class AddonServer:
    def __init__(self) -> None:
        self.defined = True
        self.behind = 0
        self.refused: dict[str, int] = {}
        self.unwritable: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self.looks = 0
        self.url = ""
        self._objects: dict[tuple[str, str], Document] = {}
        self._versions = itertools.count(1)
        self._history: list[tuple[int, str, Document]] = []
        self._changed = asyncio.Condition()
        self._cut: Counter[str] = Counter()

    # What tests do

    async def put(self, namespace: str, name: str, **metadata: Any) -> None:
        """Make or replace an Addon."""
        document: Document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"{namespace}/{name}",
                "generation": 1,
                **metadata,
            },
            "spec": {"source": {"path": f"{name}.tar.gz"}, "organizations": {"all": True}},
        }
        await self._store("MODIFIED" if (namespace, name) in self._objects else "ADDED", document)

    def phase(self, namespace: str, name: str) -> str:
        status = self._objects[namespace, name].get("status") or {}
        return str(status.get("phase", ""))

    def has(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self._objects

    def finalizers(self, namespace: str, name: str) -> list[str]:
        return self._objects[namespace, name]["metadata"].get("finalizers") or []

    async def refuse(self, namespace: str, status: int) -> None:
        """From now on; a watch that is open ends."""
        self.refused[namespace] = status
        await self.cut(namespace)

    async def cut(self, namespace: str) -> None:
        """End the open watches of a namespace, as the server does from time to time."""
        self._cut[namespace] += 1
        async with self._changed:
            self._changed.notify_all()

    def kubeconfig(self, folder: Path) -> Path:
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(document))
        return path

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ApiServer]:
        """Answer while the block runs; it gives the operator's own client."""
        application = web.Application()
        application.router.add_get("/api", self._core)
        application.router.add_get("/api/v1", self._core_kinds)
        application.router.add_get("/apis", self._groups)
        application.router.add_get(f"/apis/{API_VERSION}", self._kinds)
        application.router.add_get("/apis/apiextensions.k8s.io/v1", self._definitions)
        application.router.add_get(f"/apis/{API_VERSION}/namespaces/{{namespace}}/{PLURAL}", self._list_or_watch)
        one = f"/apis/{API_VERSION}/namespaces/{{namespace}}/{PLURAL}/{{name}}"
        application.router.add_patch(one, self._patch)
        application.router.add_patch(f"{one}/status", self._show)
        # Without idle connections and handlers whose client has gone: kopf would wait for their tasks when it ends.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, keepalive_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        api = ApiServer(client.ApiClient(client.Configuration(host=self.url)))
        try:
            yield api
        finally:
            await api.close()
            await runner.cleanup()

    # What it answers

    async def _core(self, _request: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    async def _core_kinds(self, _request: web.Request) -> web.Response:
        return web.json_response({"resources": [_kind("namespaces", "Namespace", namespaced=False)]})

    async def _definitions(self, _request: web.Request) -> web.Response:
        kind = _kind("customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
        return web.json_response({"resources": [kind]})

    async def _groups(self, request: web.Request) -> web.Response:
        groups = [_group("apiextensions.k8s.io", "v1")] + [_group(GROUP, VERSION)] * self._knows(request)
        return web.json_response({"groups": groups})

    async def _kinds(self, request: web.Request) -> web.Response:
        if not self._knows(request):
            return _status(404)
        return web.json_response({"resources": [_kind(PLURAL, KIND, namespaced=True)]})

    def _knows(self, request: web.Request) -> bool:
        self.looks += 1
        if self.behind and request.headers["User-Agent"].startswith("kopf"):
            self.behind -= 1
            return False
        return self.defined

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info["namespace"]
        status = self.refused.get(namespace, 200) if self.defined else 404
        if status != 200:
            self.refusals[namespace] += 1
            return _status(status)
        if "watch" in request.query:
            return await self._watch(request, namespace)
        items = [item for (where, _), item in self._objects.items() if where == namespace]
        version = str(self._history[-1][0] if self._history else 0)
        return web.json_response({"kind": f"{KIND}List", "metadata": {"resourceVersion": version}, "items": items})

    async def _watch(self, request: web.Request, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        since, cut = int(request.query["resourceVersion"]), self._cut[namespace]
        while self._cut[namespace] == cut:
            for version, kind, document in [entry for entry in self._history if entry[0] > since]:
                since = version
                if document["metadata"]["namespace"] == namespace:
                    await response.write(json.dumps({"type": kind, "object": document}).encode() + b"\n")
            async with self._changed:
                if self._cut[namespace] == cut and (not self._history or self._history[-1][0] <= since):
                    await self._changed.wait()
        return response

    async def _patch(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        if name in self.unwritable:
            self.refusals[name] += 1
            return _status(403)
        document = copy.deepcopy(self._objects[namespace, name])
        body = await request.json()
        if isinstance(body, list):
            for change in body:
                if change["op"] != "test":
                    _apply(document, change)
        else:
            document["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
        await self._store("MODIFIED", document)
        return web.json_response(document)

    async def _show(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        document = {**copy.deepcopy(self._objects[namespace, name]), "status": (await request.json())["status"]}
        await self._store("MODIFIED", document)
        return web.json_response(document)

    async def _store(self, kind: str, document: Document) -> None:
        version = next(self._versions)
        document["metadata"]["resourceVersion"] = str(version)
        place = document["metadata"]["namespace"], document["metadata"]["name"]
        self._objects[place] = document
        if "deletionTimestamp" in document["metadata"] and not document["metadata"].get("finalizers"):
            kind = "DELETED"
            del self._objects[place]
        self._history.append((version, kind, copy.deepcopy(document)))
        async with self._changed:
            self._changed.notify_all()


def _apply(document: Document, change: Document) -> None:
    *parents, last = change["path"].strip("/").split("/")
    target: Any = document
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if isinstance(target, list):
        if change["op"] == "remove":
            del target[int(last)]
        else:
            target.insert(len(target) if last == "-" else int(last), change["value"])
    elif change["op"] == "remove":
        del target[last]
    else:
        target[last] = change["value"]


def _group(name: str, version: str) -> Document:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


def _kind(plural: str, kind: str, *, namespaced: bool) -> Document:
    return {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": VERBS}


def _status(code: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": f"answered {code}"}
    return web.json_response(body, status=code)
