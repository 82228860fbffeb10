"""A bundle that was fetched and is not installed does not travel again while its source has no other one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.kubernetes_objects import ObjectsInMemory
from tests.unit.test_operator_http import BUNDLE as UNPINNED
from tests.unit.test_operator_http import NAMES, Server
from tests.unit.test_operator_http import source as http_source
from tests.unit.test_operator_oci import Registry
from tests.unit.test_operator_reconcile import KEY, OTHER, World, after, bundle_of, text

from metacore.bundle.signature import TrustedKeys
from metacore.errors import Refused
from metacore_operator.conditions import Summary
from metacore_operator.outcomes import Done, Reason, Stalled
from metacore_operator.resources.addon import FORCE, REQUESTED_AT
from metacore_operator.resources.spec import SourceKind
from metacore_operator.sources import shelf as shelves
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.oci import OciSource
from metacore_operator.sources.references import References
from metacore_operator.sources.shelf import Shelf
from metacore_operator.steps.reconcile import remove

WANTS = [{"kind": "event:emit", "target": "tickets.*", "reason": "tells others"}]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_one_bundle_is_kept_for_each_addon() -> None:
    shelf = Shelf()
    await shelf.keep("a", digest(b"one"), b"one")
    assert await shelf.recall("a", digest(b"one")) == b"one"
    assert await shelf.recall("a", digest(b"one")) == b"one"
    assert await shelf.recall("b", digest(b"one")) is None, "what another Addon fetched is not this one's to see"
    await shelf.keep("a", digest(b"two"), b"two")
    assert [await shelf.recall("a", digest(each)) for each in (b"one", b"two")] == [None, b"two"]
    shelf.forget("a")
    shelf.forget("a")
    assert await shelf.recall("a", digest(b"two")) is None


async def test_the_shelf_has_an_end() -> None:
    shelf = Shelf(most_bytes=10, most_files=3)
    for uid in "abcd":
        await shelf.keep(uid, digest(b"xx"), b"xx")
    assert [await shelf.recall(uid, digest(b"xx")) for uid in "abcd"] == [None, b"xx", b"xx", b"xx"]
    await shelf.recall("b", digest(b"xx"))
    await shelf.keep("e", digest(b"x" * 7), b"x" * 7)
    assert await shelf.recall("b", digest(b"xx")) == b"xx"
    assert [await shelf.recall(uid, digest(b"xx")) for uid in "cd"] == [None, None]
    await shelf.keep("f", digest(b"x" * 11), b"x" * 11)
    assert await shelf.recall("f", digest(b"x" * 11)) is None
    for _ in range(9):
        await shelf.keep("g", digest(b"xxx"), b"xxx")
    assert await shelf.recall("g", digest(b"xxx")) == b"xxx", "nothing is counted twice"


async def test_bytes_that_changed_on_the_disk_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    made = shelves._File
    monkeypatch.setattr(shelves, "_File", lambda content: made(content[:-1] + b"!"))
    await shelf.keep("a", digest(b"one"), b"one")
    assert await shelf.recall("a", digest(b"one")) is None


async def test_a_disk_that_is_full_only_means_that_it_travels_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_content: bytes) -> Any:
        raise OSError(28, "No space left on device")

    shelf = Shelf()
    monkeypatch.setattr(shelves, "_File", full)
    await shelf.keep("a", digest(b"one"), b"one")
    assert await shelf.recall("a", digest(b"one")) is None


class Web:
    """A world whose Addon has its bundle behind an HTTP address."""

    def __init__(self, server: Server, content: bytes) -> None:
        self.server = server
        self.world = World(content)
        self.world.ports = replace(self.world.ports, sources={SourceKind.HTTP: http_source()})
        self.serve()

    def serve(self) -> None:
        assert self.world.signature is not None
        self.server.files = {NAMES[0]: self.world.content, NAMES[1]: self.world.signature}

    async def look(self, before: Summary | None = None, annotations: dict[str, str] | None = None, **http: Any) -> Any:
        spec = {"source": {"http": {"url": self.server.url + NAMES[0], **http}}}
        addon = after(before, annotations, **spec) if before is not None else self.server.addon(**http)
        return await self.world.reconcile(addon)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server("ETag")
    async with made.running():
        yield made


async def test_a_bundle_whose_key_is_not_trusted_travels_once_and_is_installed_when_it_is(server: Server) -> None:
    web = Web(server, bundle_of())
    web.world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    seen = await web.look()
    assert server.answered() == [200, 200]
    for _ in range(3):
        seen = await web.look(seen)
        assert seen.decisive.reason is Reason.SIGNATURE_REFUSED
        assert server.answered() == [304, 200], "the bundle is there; another signature may be the remedy"
    web.world.trusted = TrustedKeys((bytes(KEY.verify_key),))
    ready = await web.look(seen)
    assert isinstance(ready.decisive, Done), text(ready)
    assert server.answered() == [304, 200]


async def test_a_signature_that_was_made_anew_is_seen(server: Server) -> None:
    web = Web(server, bundle_of())
    web.world.sign(OTHER)
    web.serve()
    refused = await web.look()
    assert refused.decisive.reason is Reason.SIGNATURE_REFUSED
    web.world.sign(KEY)
    web.serve()
    server.answered()
    assert isinstance((await web.look(refused)).decisive, Done)
    assert server.answered() == [304, 200]


async def test_another_bundle_travels_and_is_judged_anew(server: Server) -> None:
    web = Web(server, bundle_of())
    server.files[NAMES[0]] = b"no archive"
    refused = await web.look()
    assert isinstance(refused.decisive, Stalled)
    web.world.content = bundle_of("1.0.1")
    web.world.sign(KEY)
    web.serve()
    server.answered()
    assert isinstance((await web.look(refused)).decisive, Done)
    assert server.answered() == [200, 200]


@pytest.mark.parametrize("annotation", [REQUESTED_AT, FORCE])
async def test_a_wish_for_everything_fetches_it_once_though_it_stays_open(server: Server, annotation: str) -> None:
    web = Web(server, bundle_of())
    web.world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    seen = await web.look()
    server.answered()
    for number, statuses in enumerate(([200, 200], [304, 200], [304, 200])):
        seen = await web.look(seen, {annotation: "1"})
        assert server.answered() == statuses, number
    await web.look(seen, {annotation: "2"})
    assert server.answered() == [200, 200]


async def test_a_download_that_is_not_what_the_source_says_travels_once(server: Server) -> None:
    source, addon = http_source(), server.addon(sha256="0" * 64)
    for statuses in ([200], [304], [304]):
        with pytest.raises(Refused, match=f"has SHA-256 {digest(UNPINNED)}, the source says 000"):
            await source.fetch(addon)
        assert server.answered() == statuses
    server.files[NAMES[0]] = b"another"
    with pytest.raises(Refused, match=digest(b"another")):
        await source.fetch(addon)
    assert server.answered() == [200]


async def test_what_was_fetched_for_a_removed_addon_is_forgotten(server: Server) -> None:
    web = Web(server, bundle_of())
    web.world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    await web.look()
    uid, shelf = server.addon().metadata.uid, web.world.ports.shelf
    assert await shelf.recall(uid, digest(web.world.content)) == web.world.content
    await remove(server.addon(), web.world.ports)
    assert await shelf.recall(uid, digest(web.world.content)) is None


async def test_an_artifact_that_waits_for_its_capabilities_is_pulled_once_and_leaves_the_shelf_when_installed() -> None:
    registry, world = Registry(), World(bundle_of(capabilities=WANTS))
    assert world.signature is not None
    registry.hold(world.content, world.signature)
    async with registry.running():
        oci = OciSource(Downloader(["127.0.0.1"]), References(ObjectsInMemory()), [registry.host])
        world.ports = replace(world.ports, sources={SourceKind.OCI: oci})
        spec: dict[str, Any] = {"source": {"oci": {"ref": f"{registry.host}/addons/tickets:1.0.0"}}}
        listed: dict[str, Any] = {"capabilities": {"accept": "Listed", "list": []}}
        seen = await world.reconcile(after(await World().reconcile(), **spec, **listed))
        assert registry.requests == ["GET manifests", "GET blobs", "GET blobs"]
        for _ in range(3):
            registry.requests.clear()
            seen = await world.reconcile(after(seen, **spec, **listed))
            assert seen.decisive.reason is Reason.CAPABILITIES_PENDING
            assert registry.requests == ["HEAD manifests"]
        registry.requests.clear()
        uid = after(seen, **spec).metadata.uid
        ready = await world.reconcile(after(seen, **spec))
        assert isinstance(ready.decisive, Done)
        assert registry.requests == ["HEAD manifests"]
        await world.reconcile(after(ready, **spec))
        assert await world.ports.shelf.recall(uid, digest(world.content)) is None
