"""Bundles from an OCI registry: by tag and digest, with and without a login, every byte held against its digest."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import Refused, Unavailable
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.oci import (
    BUNDLE_TYPE,
    SIGNATURE_TYPE,
    TITLE,
    OciSource,
    Reference,
    chosen_layers,
    credentials,
)
from metacore_operator.sources.references import ALLOW, References

BUNDLE, SIGNATURE = b"the bundle", b'{"signature": 1}'


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Registry:
    """A registry with one artifact; with `password` it wants a token, which ann gets for it."""

    def __init__(self) -> None:
        self.password = ""
        self.realm_path = "/token"
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "layers": [
                {"mediaType": BUNDLE_TYPE, "digest": digest_of(BUNDLE), "size": len(BUNDLE)},
                {"mediaType": SIGNATURE_TYPE, "digest": digest_of(SIGNATURE), "size": len(SIGNATURE)},
            ],
        }
        self.blobs = {digest_of(BUNDLE): BUNDLE, digest_of(SIGNATURE): SIGNATURE}
        self.host = ""

    @property
    def manifest_bytes(self) -> bytes:
        return json.dumps(self.manifest).encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == self.realm_path:
            wanted = base64.b64encode(f"ann:{self.password}".encode()).decode()
            good = request.headers.get("Authorization") == f"Basic {wanted}"
            assert request.query["scope"] == "repository:addons/tickets:pull"
            return web.json_response({"token": "t0"}, status=200 if good else 401)
        if self.password and request.headers.get("Authorization") != "Bearer t0":
            challenge = f'Bearer realm="http://{self.host}{self.realm_path}",service="registry"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        kind, name = request.path.removeprefix("/v2/addons/tickets/").split("/", 1)
        if kind == "manifests" and name in ("1.0.0", digest_of(self.manifest_bytes), "sha256:" + "0" * 64):
            return web.Response(body=self.manifest_bytes)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.Response(status=404)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/{path:.*}", self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.host = f"127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def fetched(self, name: str = ":1.0.0", *, api: ObjectsInMemory | None = None) -> tuple[bytes, bytes | None]:
        source = OciSource(Downloader(["127.0.0.1"]), References(api or ObjectsInMemory()), [self.host])
        found = await source.fetch(addon(f"{self.host}/addons/tickets{name}", secret=api is not None))
        return found.content, found.signature


def addon(ref: str, *, secret: bool = False) -> Addon:
    oci: dict[str, Any] = {"ref": ref, **({"pullSecretRef": {"name": "pull"}} if secret else {})}
    return parse_addon(
        {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": "tickets"},
            "spec": {"source": {"oci": oci}, "organizations": {"all": True}},
        }
    )


def pull_secret(host: str, password: str) -> ObjectsInMemory:
    config = json.dumps({"auths": {host: {"username": "ann", "password": password}}}).encode()
    api = ObjectsInMemory()
    api.put(
        "/api/v1/namespaces/default/secrets/pull",
        {
            "metadata": {"labels": {ALLOW: "tickets"}},
            "data": {".dockerconfigjson": base64.b64encode(config).decode()},
        },
    )
    return api


async def test_by_tag_and_by_digest() -> None:
    registry = Registry()
    async with registry.running():
        assert await registry.fetched() == (BUNDLE, SIGNATURE)
        assert await registry.fetched("@" + digest_of(registry.manifest_bytes)) == (BUNDLE, SIGNATURE)
        with pytest.raises(Unavailable, match="answered 404"):
            await registry.fetched(":2.0.0")


async def test_a_manifest_or_layer_that_is_not_what_its_digest_says_is_refused() -> None:
    registry = Registry()
    async with registry.running():
        with pytest.raises(Refused, match="the manifest has digest"):
            await registry.fetched("@sha256:" + "0" * 64)
        registry.blobs[digest_of(BUNDLE)] = b"the bumble"
        with pytest.raises(Refused, match="the layer has digest"):
            await registry.fetched()


async def test_a_layer_too_large_is_refused_before_it_is_fetched() -> None:
    registry = Registry()
    registry.manifest["layers"][0]["size"] = 5 * 1024**3
    async with registry.running():
        with pytest.raises(Refused, match="5368709120 bytes"):
            await registry.fetched()


async def test_a_login_comes_from_the_pull_secret() -> None:
    registry = Registry()
    registry.password = "hunter2"
    async with registry.running():
        assert await registry.fetched(api=pull_secret(registry.host, "hunter2")) == (BUNDLE, SIGNATURE)
        for api in (pull_secret(registry.host, "wrong"), pull_secret("elsewhere.test", "hunter2"), None):
            with pytest.raises(Unavailable) as caught:
                await registry.fetched(api=api)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("r.test/a:1", Reference("r.test", "a", "1", "")),
        ("r.test:5000/a/b-c", Reference("r.test:5000", "a/b-c", "latest", "")),
        ("oci://r.test/a@sha256:" + "a" * 64, Reference("r.test", "a", "latest", "sha256:" + "a" * 64)),
        ("docker.io/me/a:1", Reference("registry-1.docker.io", "me/a", "1", "")),
    ],
)
def test_references(text: str, wanted: Reference) -> None:
    assert Reference.parse(text) == wanted


@pytest.mark.parametrize(
    "text", ["a", "r.test/", "r.test/A", "r.test/a/../b", "r.test/a@sha256:12", "http://r.test/a", "u:p@r.test/a"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is no reference"):
        Reference.parse(text)


def test_layers_are_told_apart_by_type_or_title() -> None:
    plain = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "annotations": {TITLE: "a.tar.gz"}}
    signature = {"mediaType": plain["mediaType"], "annotations": {TITLE: "a.tar.gz.sig.json"}}
    assert chosen_layers({"layers": [signature, plain]}, "r") == (plain, signature)
    typed = {"mediaType": BUNDLE_TYPE}
    assert chosen_layers({"layers": [plain, typed]}, "r") == (typed, None)
    for layers in ([], [plain, plain], [typed, signature, signature]):
        with pytest.raises(Refused, match="one bundle and at most one signature"):
            chosen_layers({"layers": layers}, "r")


def test_a_secret_of_another_type_is_refused_without_its_content() -> None:
    for content in ({}, {".dockerconfigjson": b"hidden"}, {".dockerconfigjson": b'{"auths": {"r.test": {}}}'}):
        with pytest.raises(Refused, match="not of type") as caught:
            credentials(content, "r.test", "pull")
        assert "hidden" not in str(caught.value)
