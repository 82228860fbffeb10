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
from metacore_operator.sources.logins import Login, login_of
from metacore_operator.sources.oci import (
    BUNDLE_TYPE,
    CREATED,
    SIGNATURE_TYPE,
    TITLE,
    OciSource,
    Reference,
    chosen_layers,
)
from metacore_operator.sources.references import ALLOW, References
from metacore_operator.sources.source import AskLater, Look

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
        self.manifests: dict[str, bytes] = {}
        self.referrers: dict[str, list[dict[str, Any]]] | None = None
        self.identity = ""
        self.requests: list[str] = []
        self.says_digests = True
        self.refuses: web.Response | None = None

    def hold(self, bundle: bytes, signature: bytes) -> None:
        """Be a registry with this bundle and signature instead."""
        contents = {BUNDLE_TYPE: bundle, SIGNATURE_TYPE: signature}
        self.blobs = {digest_of(content): content for content in contents.values()}
        self.manifest["layers"] = [
            {"mediaType": kind, "digest": digest_of(content), "size": len(content)}
            for kind, content in contents.items()
        ]

    def put(self, document: dict[str, Any], tag: str = "") -> dict[str, Any]:
        """Keep one more manifest, and give its descriptor."""
        content = json.dumps(document).encode()
        self.manifests[digest_of(content)] = content
        if tag:
            self.manifests[tag] = content
        return {"digest": digest_of(content), "size": len(content)}

    def sign_beside(self, **annotations: str) -> dict[str, Any]:
        """The descriptor of an attached signature."""
        layer = {"mediaType": "text/plain", "digest": digest_of(SIGNATURE), "size": len(SIGNATURE)}
        attached = self.put(
            {"schemaVersion": 2, "artifactType": SIGNATURE_TYPE, "layers": [layer], "note": annotations}
        )
        return {**attached, "artifactType": SIGNATURE_TYPE, "annotations": annotations}

    @property
    def manifest_bytes(self) -> bytes:
        return json.dumps(self.manifest).encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == self.realm_path and request.method == "POST":
            form = await request.post()
            assert (form["grant_type"], form["service"]) == ("refresh_token", "registry")
            assert form["scope"] == "repository:addons/tickets:pull"
            good = form["refresh_token"] == self.identity
            return web.json_response({"access_token": "t0"}, status=200 if good else 401)
        if request.path == self.realm_path:
            wanted = base64.b64encode(f"ann:{self.password}".encode()).decode()
            good = request.headers.get("Authorization") == f"Basic {wanted}"
            assert request.query["scope"] == "repository:addons/tickets:pull"
            return web.json_response({"token": "t0"}, status=200 if good else 401)
        if self.password and request.headers.get("Authorization") != "Bearer t0":
            challenge = f'Bearer realm="http://{self.host}{self.realm_path}",service="registry"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        kind, name = request.path.removeprefix("/v2/addons/tickets/").split("/", 1)
        self.requests.append(f"{request.method} {kind}")
        if self.refuses is not None:
            return web.Response(status=self.refuses.status, headers=self.refuses.headers)
        if kind == "referrers" and self.referrers is not None:
            assert request.query["artifactType"] == SIGNATURE_TYPE
            return web.json_response({"schemaVersion": 2, "manifests": self.referrers.get(name, [])})
        if kind == "manifests" and name in self.manifests:
            return self._manifest(self.manifests[name])
        if kind == "manifests" and name in ("1.0.0", digest_of(self.manifest_bytes), "sha256:" + "0" * 64):
            return self._manifest(self.manifest_bytes)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.Response(status=404)

    def _manifest(self, content: bytes) -> web.Response:
        headers = {"Docker-Content-Digest": digest_of(content)} if self.says_digests else {}
        return web.Response(body=content, headers=headers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
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
            "metadata": {"name": "tickets", "uid": "00000000-0000-4000-8000-00000000000a"},
            "spec": {"source": {"oci": oci}, "organizations": {"all": True}},
        }
    )


def pull_secret(host: str, password: str = "", **entry: str) -> ObjectsInMemory:
    found = entry or {"username": "ann", "password": password}
    config = json.dumps({"auths": {host: found}}).encode()
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
            login_of(content, "r.test", "pull")
        assert "hidden" not in str(caught.value)


async def test_an_attached_signature_is_found_by_the_referrers_api_or_by_its_tag() -> None:
    registry = Registry()
    registry.manifest["layers"].pop()
    subject = digest_of(registry.manifest_bytes)
    other = {**registry.put({"layers": []}), "artifactType": "application/spdx+json"}
    old, new = (
        registry.sign_beside(**{CREATED: "2025-01-01T00:00:00Z"}),
        registry.sign_beside(**{CREATED: "2026-01-01T00:00:00Z"}),
    )
    del registry.manifests[old["digest"]]
    async with registry.running():
        assert await registry.fetched() == (BUNDLE, None)
        registry.referrers = {subject: [other, new, old]}
        assert await registry.fetched() == (BUNDLE, SIGNATURE), "the newest of them"
        registry.referrers = None
        registry.put({"manifests": [other, new]}, tag=subject.replace(":", "-"))
        assert await registry.fetched() == (BUNDLE, SIGNATURE)


async def test_an_index_is_followed_when_only_one_artifact_can_be_meant() -> None:
    registry = Registry()
    inner = registry.put(registry.manifest)
    foreign = registry.put({"layers": [], "foreign": True})
    registry.put({"manifests": [inner]}, tag="one")
    registry.put({"manifests": [foreign, {**inner, "artifactType": BUNDLE_TYPE}]}, tag="typed")
    registry.put({"manifests": [foreign, inner]}, tag="two")
    registry.put({"manifests": [{**inner, "size": 5 * 1024**3}]}, tag="huge")
    registry.put({"manifests": [{**inner, "digest": "sha256:nonsense"}]}, tag="broken")
    async with registry.running():
        assert await registry.fetched(":one") == (BUNDLE, SIGNATURE)
        assert await registry.fetched(":typed") == (BUNDLE, SIGNATURE)
        for tag, words in (("two", "index of 2 artifacts"), ("huge", "5368709120 bytes"), ("broken", "no SHA-256")):
            with pytest.raises(Refused, match=words):
                await registry.fetched(f":{tag}")


async def test_a_manifest_without_an_end_is_not_read() -> None:
    registry = Registry()
    registry.manifest["annotations"] = {"padding": "x" * (4 * 1024 * 1024)}
    async with registry.running():
        with pytest.raises(Refused, match="larger than 4194304 bytes"):
            await registry.fetched()


async def test_identity_and_registry_tokens_are_used_and_never_told() -> None:
    registry = Registry()
    registry.password, registry.identity = "hunter2", "refresh-me"
    async with registry.running():
        host = registry.host
        for entry in ({"identitytoken": "refresh-me"}, {"registrytoken": "t0"}):
            assert await registry.fetched(api=pull_secret(f"https://{host}/v2/", **entry)) == (BUNDLE, SIGNATURE)
        for entry in ({"identitytoken": "s3cret"}, {"registrytoken": "s3cret"}):
            with pytest.raises(Unavailable) as caught:
                await registry.fetched(api=pull_secret(host, **entry))
            assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("r.test", "r.test"),
        ("https://r.test/v1/", "r.test"),
        ("http://r.test:5000", "r.test:5000"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
    ],
)
def test_a_login_is_found_however_the_registry_is_written(name: str, registry: str) -> None:
    entries = {".dockerconfigjson": json.dumps({"auths": {"other.test": {}, name: {"auth": "YTpi"}}}).encode()}
    assert login_of(entries, registry, "pull") == Login("YTpi")
    assert login_of(entries, "elsewhere.test", "pull") == Login()
    assert "YTpi" not in repr(login_of(entries, registry, "pull"))


async def test_a_bundle_that_is_kept_under_its_digest_is_not_pulled_again() -> None:
    registry = Registry()
    asked: list[str] = []

    async def stored(digest: str) -> bytes | None:
        asked.append(digest)
        return BUNDLE

    async with registry.running():
        del registry.blobs[digest_of(BUNDLE)]
        source = OciSource(Downloader(["127.0.0.1"]), References(ObjectsInMemory()), [registry.host])
        found = await source.fetch(addon(f"{registry.host}/addons/tickets:1.0.0"), stored)

    assert (found.content, found.signature) == (BUNDLE, SIGNATURE)
    assert asked == [digest_of(BUNDLE).removeprefix("sha256:")]


async def everything(digest: str) -> bytes | None:
    """A database that has the bundle."""
    return BUNDLE if digest_of(BUNDLE).endswith(digest) else None


def source_of(registry: Registry, api: ObjectsInMemory | None = None) -> OciSource:
    return OciSource(Downloader(["127.0.0.1"]), References(api or ObjectsInMemory()), [registry.host])


async def test_a_digest_whose_bundle_is_installed_is_not_asked_for_again() -> None:
    registry = Registry()
    async with registry.running():
        source = source_of(registry)
        named = addon(f"{registry.host}/addons/tickets@{digest_of(registry.manifest_bytes)}")
        first = await source.fetch(named, everything)
        assert registry.requests.count("GET manifests") == 1
        registry.requests.clear()
        assert await source.fetch(named, everything) == first
        assert registry.requests == []

        assert await source.fetch(named) == first, "nothing of it is installed any more"
        assert "GET manifests" in registry.requests
        registry.requests.clear()
        assert await source.fetch(named, everything, look=Look.ALL) == first
        assert "GET manifests" in registry.requests


@pytest.mark.parametrize("password", ["", "hunter2"])
async def test_of_a_tag_only_its_digest_is_asked_until_that_changes(password: str) -> None:
    registry = Registry()
    registry.password = password
    async with registry.running():
        api = pull_secret(registry.host, password) if password else None
        source = source_of(registry, api)
        tag = addon(f"{registry.host}/addons/tickets:1.0.0", secret=bool(password))
        first = await source.fetch(tag, everything)
        registry.requests.clear()
        assert await source.fetch(tag, everything) == first
        assert set(registry.requests) == {"HEAD manifests"}

        registry.blobs[digest_of(b"other")] = b"other"
        registry.manifest["layers"][1] = {
            "mediaType": SIGNATURE_TYPE,
            "digest": digest_of(b"other"),
            "size": len(b"other"),
        }
        assert (await source.fetch(tag, everything)).signature == b"other"
        registry.requests.clear()
        assert (await source.fetch(tag, everything)).signature == b"other"
        assert set(registry.requests) == {"HEAD manifests"}


async def test_a_tag_that_leads_to_an_index_is_compared_by_the_index() -> None:
    registry = Registry()
    inner = registry.put(registry.manifest)
    registry.put({"manifests": [inner]}, tag="one")
    async with registry.running():
        source, tag = source_of(registry), addon(f"{registry.host}/addons/tickets:one")
        await source.fetch(tag, everything)
        registry.requests.clear()
        await source.fetch(tag, everything)
        assert registry.requests == ["HEAD manifests"]


async def test_a_registry_that_tells_no_digest_is_asked_for_the_manifest() -> None:
    registry = Registry()
    registry.says_digests = False
    async with registry.running():
        source, tag = source_of(registry), addon(f"{registry.host}/addons/tickets:1.0.0")
        first = await source.fetch(tag, everything)
        registry.requests.clear()
        assert await source.fetch(tag, everything) == first
        assert registry.requests[:2] == ["HEAD manifests", "GET manifests"]


async def test_a_changed_reference_is_asked_for_as_if_for_the_first_time() -> None:
    registry = Registry()
    async with registry.running():
        source = source_of(registry)
        await source.fetch(addon(f"{registry.host}/addons/tickets:1.0.0"), everything)
        registry.requests.clear()
        await source.fetch(addon(f"{registry.host}/addons/tickets@{digest_of(registry.manifest_bytes)}"), everything)
        assert "GET manifests" in registry.requests


async def test_a_registry_that_wants_to_be_left_alone_says_for_how_long() -> None:
    registry = Registry()
    async with registry.running():
        source, tag = source_of(registry), addon(f"{registry.host}/addons/tickets:1.0.0")
        await source.fetch(tag, everything)
        registry.refuses = web.Response(status=429, headers={"Retry-After": "900"})
        for look in Look:
            with pytest.raises(AskLater, match="answered 429, not to be asked before 20") as caught:
                await source.fetch(tag, everything, look=look)
            assert caught.value.seconds == 900
