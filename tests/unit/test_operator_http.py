"""Bundles behind an HTTP address: what has not changed does not travel again."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.kubernetes_objects import ObjectsInMemory

from metacore.errors import Refused, Unavailable
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.http import HttpSource
from metacore_operator.sources.references import References
from metacore_operator.sources.source import Fetched, Look, Stored, nothing_stored

BUNDLE, OTHER = b"the bundle", b"the other bundle"
NAMES = ("/b.tar.gz", "/b.tar.gz.sig.json")


class Server:
    """Two files. `marks` are the headers that tell their versions, made of the content."""

    def __init__(self, *marks: str) -> None:
        self.files = {NAMES[0]: BUNDLE, NAMES[1]: b"signed"}
        self.marks = marks
        self.requests: list[tuple[str, int]] = []
        self.conditions: list[dict[str, str]] = []
        self.url = ""

    def marks_of(self, content: bytes) -> dict[str, str]:
        made = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Last-Modified": f"Thu, 01 Jan 2026 00:00:{len(content):02} GMT",
        }
        return {mark: made[mark] for mark in self.marks}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        self.conditions.append({k: v for k, v in request.headers.items() if k.startswith("If-")})
        marks = self.marks_of(content)
        tag, date = request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since")
        same = tag == marks.get("ETag") if tag is not None else date is not None and date == marks.get("Last-Modified")
        response = web.Response(status=304) if same else web.Response(body=content)
        response.headers.update(marks)
        self.requests.append((request.path, response.status))
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/{path:.*}", self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    def addon(self, **more: Any) -> Addon:
        return parse_addon(
            {
                "apiVersion": "metacore.dev/v1alpha1",
                "kind": "Addon",
                "metadata": {"name": "tickets", "uid": "00000000-0000-4000-8000-00000000000a"},
                "spec": {"source": {"http": {"url": self.url + NAMES[0], **more}}, "organizations": {"all": True}},
            }
        )

    def answered(self) -> list[int]:
        """The statuses since the last call."""
        statuses, self.requests = [status for _, status in self.requests], []
        return statuses


def source() -> HttpSource:
    return HttpSource(Downloader(["127.0.0.1"]), References(ObjectsInMemory()))


def keeping(*bundles: bytes) -> Stored:
    async def stored(digest: str) -> bytes | None:
        return next((content for content in bundles if hashlib.sha256(content).hexdigest() == digest), None)

    return stored


@pytest.mark.parametrize("marks", [("ETag",), ("Last-Modified",), ("ETag", "Last-Modified")])
async def test_what_has_not_changed_is_not_sent_again(marks: tuple[str, ...]) -> None:
    server, http = Server(*marks), source()
    async with server.running():
        first = await http.fetch(server.addon(), keeping(BUNDLE))
        assert (first, server.answered()) == (Fetched(BUNDLE, b"signed", server.url + NAMES[0]), [200, 200])
        for _ in range(2):
            assert await http.fetch(server.addon(), keeping(BUNDLE)) == first
            assert server.answered() == [304, 304]

        server.files[NAMES[1]] = b"signed again"
        assert (await http.fetch(server.addon(), keeping(BUNDLE))).signature == b"signed again"
        assert server.answered() == [304, 200]
        server.files[NAMES[0]] = OTHER
        assert (await http.fetch(server.addon(), keeping(BUNDLE))).content == OTHER
        assert server.answered() == [200, 304]
        assert (await http.fetch(server.addon(), keeping(BUNDLE))).content == OTHER
        assert server.answered() == [200, 304], "the other one is not installed yet"
        del server.files[NAMES[1]]
        assert (await http.fetch(server.addon(), keeping(OTHER))).signature is None


async def test_whoever_wants_it_anew_or_has_nothing_gets_all_of_it() -> None:
    server, http = Server("ETag"), source()
    async with server.running():
        await http.fetch(server.addon(), keeping(BUNDLE))
        server.answered()
        await http.fetch(server.addon(), keeping(BUNDLE), look=Look.ALL)
        assert server.answered() == [200, 200]
        await http.fetch(server.addon(), nothing_stored)
        assert server.answered()[0] == 200
        await http.fetch(server.addon(sha256=hashlib.sha256(BUNDLE).hexdigest()), nothing_stored)
        assert server.answered() == [200, 200], "another question"


async def test_a_bundle_named_by_its_checksum_is_not_asked_for_when_it_is_installed() -> None:
    server, http = Server("ETag"), source()
    async with server.running():
        addon = server.addon(sha256=hashlib.sha256(BUNDLE).hexdigest())
        for statuses in ([200, 200], [304]):
            stored = nothing_stored if len(statuses) == 2 else keeping(BUNDLE)
            assert (await http.fetch(addon, stored)).signature == b"signed"
            assert server.answered() == statuses
        with pytest.raises(Refused, match="the source says"):
            await http.fetch(server.addon(sha256="0" * 64), keeping(BUNDLE))


async def test_a_server_without_marks_is_asked_without_conditions() -> None:
    server, http = Server(), source()
    async with server.running():
        for _ in range(2):
            assert (await http.fetch(server.addon(), keeping(BUNDLE))).content == BUNDLE
            assert server.answered() == [200, 200]
        assert server.conditions == [{}] * 4


async def test_an_answer_that_nothing_changed_to_no_such_question_is_no_bundle() -> None:
    class Confused(Server):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            return web.Response(status=304)

    server = Confused()
    async with server.running():
        with pytest.raises(Unavailable, match="answered 304"):
            await source().fetch(server.addon(), keeping(BUNDLE))


async def test_a_mark_that_cannot_be_sent_back_is_forgotten() -> None:
    class Hostile(Server):
        def marks_of(self, content: bytes) -> dict[str, str]:
            return {"ETag": '"caf\u00e9"'}

    server, http = Hostile(), source()
    async with server.running():
        for _ in range(2):
            assert (await http.fetch(server.addon(), keeping(BUNDLE))).content == BUNDLE
            assert server.answered() == [200, 200]
