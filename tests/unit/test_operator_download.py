"""Downloads are bounded, go to hosts that may be asked, and keep credentials with the host that they are for."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import format_datetime

import pytest
from aiohttp import web

from metacore.errors import NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.sources.download import LONGEST_HOLD_SECONDS, Downloader
from metacore_operator.sources.source import AskLater

LOCAL = Downloader(["127.0.0.1", "localhost"])
Handler = Callable[[web.Request], web.StreamResponse]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return handler(request)

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_bytes_arrive_as_they_are_and_no_compression_is_asked_for() -> None:
    def handler(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=b"\x00\xff" * 100_000)

    async with answering(handler) as port:
        answer = await LOCAL.get(f"http://127.0.0.1:{port}/b", limit=200_000)
    assert answer.content == b"\x00\xff" * 100_000


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_byte_too_many_is_refused_said_or_not(chunked: bool) -> None:
    def handler(_request: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * 1001)
        if chunked:
            response.enable_chunked_encoding()
        return response

    async with answering(handler) as port:
        with pytest.raises(Refused, match="larger than 1000 bytes"):
            await LOCAL.get(f"http://127.0.0.1:{port}/b", limit=1000)


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (410, NotFound), (401, PermissionDenied), (403, PermissionDenied), (500, Unavailable)],
)
async def test_a_refusal_names_the_address_without_its_query(status: int, error: type[Exception]) -> None:
    async with answering(lambda _request: web.Response(status=status)) as port:
        with pytest.raises(error) as caught:
            await LOCAL.get(f"http://127.0.0.1:{port}/b?token=hidden", limit=10)
    assert str(caught.value) == f"http://127.0.0.1:{port}/b answered {status}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
        "http://[::ffff:127.0.0.1]:1/",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "http://localhost:1/",
    ],
)
async def test_without_a_list_only_public_addresses_are_asked(url: str) -> None:
    with pytest.raises(Refused, match=r"not (a )?public"):
        await Downloader().get(url, limit=10)


@pytest.mark.parametrize("url", ["https://example.com/", "https://bundles.example.org.evil.test/", "http://10.0.0.1/"])
async def test_with_a_list_nobody_else_is_asked(url: str) -> None:
    with pytest.raises(Refused, match="is not among those"):
        await Downloader(["*.example.com", "bundles.example.org"]).get(url, limit=10)


async def test_an_entry_with_a_port_admits_and_vouches_for_that_port_alone() -> None:
    async with (
        answering(lambda _request: web.Response(text="ok")) as port,
        answering(lambda _r: web.Response()) as other,
    ):
        downloader = Downloader([f"LocalHost:{port}", f"*.localhost:{port}", "[::1]"])
        assert (await downloader.get(f"http://localhost:{port}/", limit=10)).content == b"ok"
        with pytest.raises(Refused, match=f"port {other} of host 'localhost' is not among those"):
            await downloader.get(f"http://localhost:{other}/", limit=10)
        with pytest.raises(Refused, match=r"host '127\.0\.0\.1' is not among those"):
            await downloader.get(f"http://127.0.0.1:{port}/", limit=10)
        with pytest.raises(Refused, match=f"port {other} of host 'a.localhost'"):
            await downloader.get(f"http://a.localhost:{other}/", limit=10)
    with pytest.raises(Unavailable, match="cannot be fetched"):
        await downloader.get(f"http://[::1]:{port}/", limit=10)


async def test_an_entry_with_a_port_means_the_port_of_the_scheme_too() -> None:
    with pytest.raises(Refused, match="port 443 of host"):
        await Downloader(["bundles.example.com:5000"]).get("https://bundles.example.com/b", limit=10)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/b", "file:///etc/passwd", "http://ann:secret@127.0.0.1/", "http:///b"]
)
async def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(Refused) as caught:
        await LOCAL.get(url, limit=10)
    assert "secret" not in str(caught.value)


async def test_a_redirect_is_checked_like_the_first_address() -> None:
    async with answering(lambda _request: web.Response(status=302, headers={"Location": "http://10.0.0.1/"})) as port:
        with pytest.raises(Refused, match=r"host '10\.0\.0\.1' is not among those"):
            await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)


async def test_a_list_does_not_open_the_credentials_of_a_cloud() -> None:
    with pytest.raises(Refused, match="not public"):
        await Downloader(["169.254.169.254"]).get("http://169.254.169.254/latest/meta-data/", limit=10)


async def test_redirects_end() -> None:
    async with answering(lambda _request: web.Response(status=302, headers={"Location": "/again"})) as port:
        with pytest.raises(Refused, match="more than 5 times"):
            await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("120", 120, 120),
        (" 7 ", 7, 7),
        ("9" * 400, LONGEST_HOLD_SECONDS, LONGEST_HOLD_SECONDS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_HOLD_SECONDS, LONGEST_HOLD_SECONDS),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("0", 0, 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
async def test_a_server_says_when_to_come_back(status: int, text: str | None, least: float, most: float) -> None:
    headers = {"Retry-After": text} if text is not None else {}
    async with answering(lambda _request: web.Response(status=status, headers=headers)) as port:
        with pytest.raises(Unavailable, match=f"answered {status}") as caught:
            await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)
    seconds = caught.value.seconds if isinstance(caught.value, AskLater) else 0
    assert least <= seconds <= most


async def test_a_date_to_come_back_at_is_understood() -> None:
    moment = format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1), usegmt=True)
    async with answering(lambda _request: web.Response(status=503, headers={"Retry-After": moment})) as port:
        with pytest.raises(AskLater) as caught:
            await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)
    assert 0 < caught.value.seconds <= 3600


async def test_other_refusals_do_not_say_when() -> None:
    async with answering(lambda _request: web.Response(status=500, headers={"Retry-After": "9"})) as port:
        with pytest.raises(Unavailable) as caught:
            await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)
    assert not isinstance(caught.value, AskLater)


async def test_credentials_stay_with_their_host() -> None:
    seen: list[str | None] = []

    def target(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(text="ok")

    async with answering(target) as other:

        def first(request: web.Request) -> web.StreamResponse:
            seen.append(request.headers.get("Authorization"))
            where = f"http://127.0.0.1:{other}/" if request.path == "/away" else "/away"
            return web.Response(status=307, headers={"Location": where})

        async with answering(first) as port:
            await LOCAL.get(f"http://127.0.0.1:{port}/here", limit=10, headers={"Authorization": "Bearer t"})
    assert seen == ["Bearer t", "Bearer t", None]


async def test_a_host_that_is_not_there_may_come_back() -> None:
    async with answering(lambda _request: web.Response()) as port:
        pass
    with pytest.raises(Unavailable, match="cannot be fetched"):
        await LOCAL.get(f"http://127.0.0.1:{port}/", limit=10)
